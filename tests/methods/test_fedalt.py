"""FedALT on a real model: who sends and keeps what, and that it learns."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import client_app
import server_app
from fedapp.client import serve as serving
from fedapp.client import workplace as workplaces
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import ClientFailure
from fedapp.engines.grid import run_local
from fedapp.methods.fedalt import RestOfWorld
from tests.server_side import TRAIN

SMALL = [
    "method=fedalt",
    "num_clients=3",
    "num_rounds=3",
    "split.max_train=24",
    "split.max_test=4",
    "train.num_epochs=2",
    "score={splits:[test],base:false,before:false,after:false}",
    "engine=local",
]


class Run:
    """A run's messages, memories and scores; client ``poisoned`` sends 1000 times what it trained."""

    def __init__(self, folder, *words, poisoned=None):
        self.messages, self.states, serve = [], {}, serving.serve

        def watch(work, state, output_dir):
            done = serve(work, state, output_dir)
            if work.client_id == poisoned:
                arrays = {name: 1000 * value for name, value in done.upload.arrays.items()}
                done = replace(done, upload=Payload(arrays))
            key = (work.phase, work.server_round, work.client_id)
            self.messages.append((*key, work.download, done.upload))
            self.states[key] = dict(state)
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serving, "serve", watch)
            overrides = " ".join([*SMALL, *words, f"run_dir={folder}"])
            try:
                run_local(server_app.app, client_app.app, num_nodes=3, run_config={"overrides": overrides})
            finally:
                workplaces.close()
        self.finals = [load_file(folder / f"adapters/client-{k}/adapter.safetensors") for k in range(3)]
        self.rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    def downloads(self, client):
        return [d.arrays for p, _, c, d, _ in self.messages if p == "train" and c == client]

    def uploads(self, server_round):
        return {c: u.arrays for p, r, c, _, u in self.messages if p == "train" and r == server_round}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("fedalt") / "run")


def test_only_the_own_lora_leaves_and_the_mixer_never(run):
    names = {n for *_, down, up in run.messages for p in (down, up) if p is not None for n in p.arrays}
    assert len(names) == 2 * 2 * 4  # A and B, query and value, 4 blocks
    assert all(name.endswith((".lora_A", ".lora_B")) for name in names)
    assert sum(name.endswith(".mixer") for name in run.finals[0]) == 2 * 4
    mixer = "layer.0.self_attn.q_proj.mixer"
    assert (run.finals[0][mixer] != run.finals[1][mixer]).any()


def test_the_slot_holds_the_plain_mean_of_the_others_and_the_own_lora_goes_on(run):
    sent = run.uploads(3)
    for client, final in enumerate(run.finals):
        others = [sent[k] for k in range(3) if k != client]
        for name, value in sent[client].items():
            assert (final[name] == value).all(), name
            mean = (others[0][name] + others[1][name]) / 2
            np.testing.assert_allclose(final[name.replace("lora_", "others_")], mean, atol=1e-7)


def test_before_anybody_has_uploaded_the_slot_is_absent(run):
    assert not any(".others_" in name for name in run.states["train", 1, 0])
    assert sum(".others_" in name for name in run.states["train", 2, 0]) == 2 * 2 * 4


def test_a_clients_own_upload_never_comes_back_to_it(run, tmp_path):
    poisoned = Run(tmp_path / "run", "num_rounds=2", poisoned=1)
    # The second round's download is the first that anybody's upload is part of.
    mine, clean = poisoned.downloads(1)[1], run.downloads(1)[1]
    assert mine
    assert all((mine[name] == value).all() for name, value in clean.items())
    assert any((poisoned.downloads(0)[1][n] != v).any() for n, v in run.downloads(0)[1].items())


def test_it_learns_over_the_rounds(run):
    losses = {
        r: np.mean(
            [row["train-loss"] for row in run.rows if row["server-round"] == r and "train-loss" in row]
        )
        for r in (1, 2, 3)
    }
    assert losses[3] < losses[2] < losses[1]
    assert losses[3] < 0.7 * losses[1]


def test_the_spec_is_that_of_the_real_payload(run):
    parameters = {name: value.shape for name, value in run.finals[0].items()}
    sent = {name: value.shape for name, value in run.uploads(3)[0].items()}
    assert RestOfWorld().upload(parameters, TRAIN).shapes == sent


class Model:
    """Names only."""

    def __init__(self, *names):
        self.values = {name: np.zeros(1, np.float32) for name in names}

    def parameters(self):
        return self.values

    def load(self, parameters):
        pass


@pytest.mark.parametrize(
    ("names", "download", "message"),
    [
        (["a.lora_A", "a.lora_B"], {}, r"a slot for the others' and a mixer \(adapter=lora_mixed\)"),
        (["a.rotate"], {}, r"adapter=lora_mixed\); this one has a.rotate"),
        (["a.lora_A", "a.mixer"], {"a.mixer": np.zeros(1, np.float32)}, "not the others' LoRA: 'a.lora_A'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(names, download, message):
    session = ClientSession(0, 1, Model(*names), [], [], [], {}, np.random.default_rng(0))

    def look_at():
        RestOfWorld().upload(session.model.parameters(), TRAIN)
        RestOfWorld().evaluate(Payload(download), session)

    with pytest.raises(ClientFailure, match=message):
        look_at()
