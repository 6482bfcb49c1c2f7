"""Federations that exchange answers, end to end: hostile clients, black boxes, different models."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fedapp.adapters.black_box import BlackBox
from fedapp.client import workplace as workplaces
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure
from fedapp.engines.grid import Network
from fedapp.methods.parameter_sharing import ParameterSharing
from fedapp.planning import preflight
from fedapp.wire.records import Envelope, pack, unpack
from tests import federation
from tests.federation import TOY, run_toy

METHOD = ["method=semantic_consensus", "method.strategy.vote.embedder.path=tfidf"]
NUM = 8
PATIENT = "round_timeout=60"  # nothing is lost in these runs, but megabytes take their time


def sending(change, client=2):
    """A network in which a client's texts are rewritten: ``change(texts) -> texts``."""

    def tamper(client_id, reply):
        if reply.metadata.message_type == "train" and client_id == client:
            envelope = unpack(reply.content)
            payload = Payload(texts=change(dict(envelope.payload.texts)))
            reply.content.clear()
            reply.content.update(pack(Envelope(envelope.facts, payload)))
        return reply

    return Network(tamper=tamper)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return run_toy(tmp_path_factory.mktemp("honest") / "run", *METHOD, "num_rounds=2", PATIENT)


HOSTILE = {
    "empty": (lambda t: t | {"answers": [""] * NUM}, "of its answers 8 empty"),
    "megabytes": (lambda t: t | {"answers": ["x" * 1_000_000] * NUM}, "8 cut to max_answer_chars"),
    "surrogates": (lambda t: t | {"answers": ["\ud800bad"] * NUM}, "freed of characters that are no text"),
    "controls": (lambda t: t | {"answers": ["\x00\x1b[2J!"] * NUM}, "freed of characters that are no text"),
    "too few": (lambda t: t | {"answers": t["answers"][:3]}, "it sends 3 answers for 8 prompt ids"),
    "too many": (lambda t: t | {"answers": t["answers"] * 9}, "it sends 72 answers for 8 prompt ids"),
    "unknown": (lambda t: t | {"ids": [f"{i + 1000}" for i in range(NUM)]}, "8 to unknown prompts"),
    "flood": (
        lambda t: t | {"ids": ["0"] * 5000, "answers": ["SPAM"] * 5000},
        "4999 to a prompt answered before",
    ),
    "other set": (lambda t: t | {"public-set": ["deadbeef"]}, "other public prompts than the server's"),
    "nothing": (lambda t: {}, "other public prompts than the server's"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_client_is_named_and_does_not_change_what_the_others_learn(kind, tmp_path, honest):
    change, said = HOSTILE[kind]
    run = run_toy(tmp_path / "run", *METHOD, "num_rounds=2", PATIENT, network=sending(change))
    warnings = [warning for warning in run.warnings() if said in warning]
    assert len(warnings) == 1
    assert "client 2" in warnings[0]
    assert run.adapters() == honest.adapters()
    assert run.rows("consensus")[1]["kept"] == NUM


def test_a_shift_of_one_clients_answers_is_outvoted(tmp_path, honest):
    def shift(texts):
        return texts | {"ids": texts["ids"][1:] + texts["ids"][:1], "answers": [f"x{i}" for i in range(NUM)]}

    run = run_toy(tmp_path / "run", *METHOD, "num_rounds=2", PATIENT, network=sending(shift))
    assert run.adapters() == honest.adapters()


def test_clients_of_different_sizes_send_the_same_bytes(tmp_path):
    sizes = 'by_client=["adapter.size=4","adapter.size=4000"]'
    run = run_toy(tmp_path / "run", *METHOD, "num_rounds=2", PATIENT, sizes, "train.learning_rate=1")
    rows = [r for r in run.rows("traffic") if r["phase"] == "train" and r["direction"] == "up"]
    assert {row["payload-bytes"] for row in rows} == {8 + NUM + NUM}


def test_a_black_box_votes_and_learns_nothing(tmp_path):
    prompts = [f"public prompt {i}" for i in range(NUM)] + [f"test prompt {i}" for i in range(40)]
    answers = "\n".join(json.dumps({"prompt": prompt, "answer": "2"}) for prompt in prompts)
    (tmp_path / "answers.jsonl").write_text(answers)
    box = f"model=answers model.path={tmp_path}/answers.jsonl adapter=black_box"
    run = run_toy(tmp_path / "run", *METHOD, "num_rounds=2", PATIENT, f'by_client=["","","","{box}"]')
    assert not run.warnings()
    assert run.rows("consensus")[-1]["clients"] == 4
    mine = [row for row in run.rows("metrics") if row["client-id"] == 3 and row["split"] == "test"]
    assert mine
    assert all("loss" not in row and row["accuracy"] == mine[0]["accuracy"] for row in mine)
    json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert run.json("run")["status"] == "completed"


def test_an_adaptive_exchange_says_what_it_saved_and_survives_lost_messages(tmp_path, honest):
    lean = run_toy(tmp_path / "lean", *METHOD, "num_rounds=3", PATIENT, "method.adaptive=true")
    plain = run_toy(tmp_path / "plain", *METHOD, "num_rounds=3", PATIENT)
    assert lean.adapters() == plain.adapters()
    rows = lean.rows("consensus")
    saved = sum(row["upload-bytes-saved"] + row["download-bytes-saved"] for row in rows)
    assert sum(r["payload-bytes"] for r in lean.rows("traffic")) == (
        sum(r["payload-bytes"] for r in plain.rows("traffic")) - saved
    )
    assert rows[2]["upload-bytes-saved"] > 0

    def drop(client, request):
        about = request.metadata
        return about.message_type == "train" and (client + int(about.group_id)) % 3 == 0

    lossy = Network(drop=drop)
    run = run_toy(
        tmp_path / "lossy", *METHOD, "num_rounds=4", "method.adaptive=true", "evaluate_every=1", network=lossy
    )
    assert not [warning for warning in run.warnings() if "not held here" in warning]


def test_a_benchmark_without_public_prompts_is_refused_before_the_run():
    with pytest.raises(ConfigError, match="has no public prompts") as caught:
        preflight.check(load_config([*TOY, *METHOD, "benchmark.num_public=0"]), with_model=False)
    assert "\n" not in str(caught.value)
    workplaces.close()


def test_a_black_box_cannot_share_parameters_and_says_so():
    base = SimpleNamespace(generate=lambda prompts: prompts)
    model = BlackBox().attach(base, TrainConfig(), seed=1)
    session = ClientSession(0, 1, model, [], [], [], {}, np.random.default_rng(0))
    with pytest.raises(ClientFailure, match="no parameters to share"):
        ParameterSharing().train(Payload(), session)


def test_an_encoder_that_is_not_there_is_found_before_anybody_trains(tmp_path):
    with pytest.raises(ValueError, match="no_such_package"):
        run_toy(tmp_path / "run", *METHOD, "method.strategy.vote.embedder.path=package:no_such_package/x")
    assert not (tmp_path / "run" / "traffic.jsonl").exists()


def test_two_architectures_with_two_tokenizers_and_two_adapters_teach_each_other(tmp_path, monkeypatch):
    texts = [
        "model=embedded adapter=loreft",
        "model=embedded_gpt2 adapter=lora",
        "model=embedded adapter=lora",
    ]
    models = f"by_client={json.dumps(texts)}"
    words = [
        "benchmark=embedded_instructions",
        "benchmark.public_size=5",
        "num_clients=3",
        "num_rounds=2",
        models,
    ]
    monkeypatch.setattr(federation, "TOY", ["engine=local", "join_timeout=60"])
    small = [
        "split.max_train=16",
        "split.max_test=4",
        "train.max_steps=4",
        "score.base=false",
        "score.before=false",
    ]
    run = run_toy(tmp_path / "run", *METHOD, *words, *small, "score.after=false", PATIENT, num_nodes=3)
    assert run.json("run")["status"] == "completed"
    trained = [row for row in run.rows("metrics") if row["split"] == "train"]
    assert {row["client-id"] for row in trained if row["server-round"] == 2} == {0, 1, 2}
    fingerprints = {
        json.loads((run.folder / "adapters" / f"client-{k}" / "adapter.json").read_text())["base-fingerprint"]
        for k in range(3)
    }
    assert len(fingerprints) == 2
    # In round 2 everybody gets the same pseudo-labels, of whatever model the answers were.
    down = [
        row["payload-bytes"]
        for row in run.rows("traffic")
        if (row["direction"], row["server-round"], row["phase"]) == ("down", 2, "train")
    ]
    assert len(down) == 3
    assert len(set(down)) == 1
