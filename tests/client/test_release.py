"""What leaves a party: nothing but what the table names, and each item can be switched off."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from flwr.app import Message

import client_app
from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.sources import read_remote
from fedapp.client import party as party_module
from fedapp.client.party import OFFLINE, Party
from fedapp.client.release import ITEMS, reason_for_server
from fedapp.config import slots
from fedapp.config.build import ConfigError, place
from fedapp.config.compose import load_config
from fedapp.config.policy import STRICT, Policy, Share
from fedapp.core.errors import FederationError, RowError
from fedapp.core.files import OFFLINE_VARIABLE, POLICY_VARIABLE, ROOT
from fedapp.core.types import ClientFailure
from fedapp.engines.grid import InProcessGrid, Network, server_identity
from fedapp.wire.messages import COUNTS, DIGEST, Work
from fedapp.wire.records import unpack
from tests.contract import METHODS, contract
from tests.federation import TOY, run_toy

ROUNDS = ["num_rounds=2", "evaluate_every=1", "+benchmark.labels=['0','1','2','3']"]


class Spy:
    """Sees every reply on its way to the server."""

    def __init__(self):
        self.replies = []

    def __call__(self, client, reply):
        envelope = unpack(reply.content)
        self.replies.append((envelope.facts, envelope.payload))
        return reply

    @property
    def network(self):
        return Network(tamper=self)

    def names(self):
        """Names of all that left."""
        found = set()
        for facts, payload in self.replies:
            found |= {name for name in facts if name != "about"}
            found |= {f"about.{name}" for name in facts.get("about", {})}
            said = {name for row in facts.get("rows", []) for name in row}
            found |= {f"rows.{name}" for name in said & {COUNTS, DIGEST}}
            found |= {"arrays"} if payload.arrays else set()
            found |= {"texts"} if payload.texts else set()
        return found


@pytest.fixture
def party(tmp_path, monkeypatch):
    """Make all clients follow a policy, with the log beside the run."""

    def follow(**tree):
        for name in OFFLINE:
            monkeypatch.setenv(name, "")  # what a party sets for its process ends with the test
        file = tmp_path / "party.yaml"
        file.write_text(yaml.safe_dump({"log": str(tmp_path / "audit.jsonl"), **tree}), encoding="utf-8")
        monkeypatch.setenv(POLICY_VARIABLE, str(file))

    yield follow
    slots.admit({})


def run(tmp_path, *words, method="fedreft", spy=None):
    spy = spy or Spy()
    words = [f"method={method}", *contract(method).toy, *ROUNDS, *words]
    return run_toy(tmp_path / "run", *words, network=spy.network), spy


def log(tmp_path):
    return [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_leaves_that_the_table_does_not_name(method, tmp_path):
    _, spy = run(tmp_path, method=method)
    assert spy.names() <= set(ITEMS)
    assert {"num-examples", "rows", "about.tasks"} <= spy.names()
    for facts, payload in spy.replies:
        about = facts.get("about", {})
        assert all(isinstance(about.get(name, 0), int) for name in ("train", "validation", "test"))
        assert set(payload.texts) <= {"answers", "ids", "digest", "likelihoods"} | set(payload.texts)


def test_the_docs_carry_the_table():
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.-]+)` \|[^|]*\| (?:`share\.(\w+)`|—) \|$", text, re.MULTILINE))
    assert rows == dict(ITEMS)


def test_every_switch_is_of_some_use():
    assert {item for item in ITEMS.values() if item} == set(Share.__dataclass_fields__)


OFF = {
    "scores": lambda facts: (facts.get("rows"), facts.get("metrics")) in (([], {}), (None, None)),
    "row_counts": lambda facts: (
        facts.get("num-examples", 1) == 1
        and not any(facts.get("about", {}).get(name) for name in ("train", "validation", "test"))
        and all(row["num-examples"] == 0 for row in facts.get("rows", []))
    ),
    "label_counts": lambda facts: not any(COUNTS in row for row in facts.get("rows", [])),
    "task_names": lambda facts: not facts.get("about", {}).get("tasks"),
    "seconds": lambda facts: not facts.get("seconds") and not facts.get("cpu-seconds"),
    "fingerprint": lambda facts: (
        not any(facts.get("fingerprints", [])) and not any(DIGEST in row for row in facts.get("rows", []))
    ),
}


@pytest.mark.parametrize("item", OFF)
def test_what_is_switched_off_stays_and_the_run_goes_on(item, tmp_path, party):
    party(share={item: False})
    done, spy = run(tmp_path)
    assert all(OFF[item](facts) for facts, _ in spy.replies)
    assert done.json("run")["status"] == "completed"
    party(share={name: name != item for name in Share.__dataclass_fields__})
    other = Spy()
    run_toy(tmp_path / "other", "method=fedreft", *ROUNDS, network=other.network)
    assert all(OFF[name](facts) for name in (item,) for facts, _ in other.replies)


@pytest.mark.parametrize("item", OFF)
def test_what_is_switched_on_leaves(item, tmp_path, party):
    party(share=dict.fromkeys(Share.__dataclass_fields__, True))
    _, spy = run(tmp_path)
    assert not all(OFF[item](facts) for facts, _ in spy.replies)


@pytest.mark.parametrize(("item", "method"), [("arrays", "fedreft"), ("texts", "semantic_consensus")])
def test_an_upload_that_may_not_leave_is_refused_with_the_setting(item, method, tmp_path, party):
    party(share={item: False})
    spy = Spy()
    with pytest.raises(FederationError, match=rf"lets none leave \(share.{item}\)"):
        run(tmp_path, method=method, spy=spy)
    assert not any(payload.arrays or payload.texts for _, payload in spy.replies)


def test_an_upload_above_the_partys_limit_is_refused(tmp_path, party):
    party(max_upload="47 B")
    with pytest.raises(FederationError, match="the upload has 48 bytes, more than .*max_upload: 47"):
        run(tmp_path)
    party(max_upload="48 B")
    run_toy(tmp_path / "enough", "method=fedreft", *ROUNDS)


# Failure texts

SECRET = "the patient's name"


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


def library():
    try:
        json.loads(f'"{SECRET}')
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        RowError("train.jsonl row 3: target must be text", f"row 3 has {SECRET}"),
        raised(OSError(2, "No such file", f"/srv/{SECRET}")),
        raised(ValueError(SECRET)),
        raised(RuntimeError(SECRET)),
        raised(KeyError(SECRET)),
    ],
)
def test_a_failure_tells_no_row_no_path_and_no_librarys_words(error):
    said = reason_for_server(error, STRICT)
    assert SECRET not in said
    assert said
    assert "own log" in reason_for_server(error, Policy(share=Share(reasons=False)))


def test_the_projects_own_words_are_told():
    for error in (
        ClientFailure("too few rows"),
        ConfigError("train.batch_size=0 must be"),
        RowError("row 3"),
    ):
        assert reason_for_server(error, STRICT) == str(error)


def test_where_nothing_is_guarded_the_reader_sees_his_own_rows():
    error = RowError("row 3: target must be text", "row 3: target=7 must be text")
    assert reason_for_server(error, Policy(open=True)) == "row 3: target=7 must be text"


def test_a_failure_tells_neither_places_nor_what_is_kept(tmp_path):
    (tmp_path / "ward_A").mkdir()
    text = (
        f"{tmp_path}/x: ward_A/train.jsonl has 24 training rows; the base model hashes to {'ab' * 32}, "
        f"seed=24 and {Path.cwd()}"
    )
    error = ClientFailure(text)
    told = reason_for_server(error, Policy(data=str(tmp_path)))
    assert str(tmp_path) not in told
    assert str(Path.cwd()) not in told
    assert "ward_A" not in told
    assert "24 training rows" in told
    assert "ab" * 32 in told
    share = Share(row_counts=False, fingerprint=False, task_names=True)
    told = reason_for_server(error, Policy(data=str(tmp_path), share=share))
    assert "<some> training rows; the base model hashes to <fingerprint>, seed=24" in told
    assert "ward_A/train.jsonl" in told


def test_a_librarys_words_stay_when_a_setting_is_placed():
    class Reader:
        def __init__(self, path):
            json.loads(f'"{SECRET}')

    with pytest.raises(ConfigError) as caught, place("model", ["path"]):
        Reader("x")
    assert caught.value.foreign
    assert "own log" in reason_for_server(caught.value, STRICT)
    with pytest.raises(RowError) as caught, place("model", ["path"]):
        raise RowError("row 3", f"row 3: {SECRET}")
    assert SECRET in caught.value.private
    assert reason_for_server(caught.value, STRICT) == "model: row 3"


# The audit log


def test_every_message_is_on_record_with_what_it_asked_and_what_left(tmp_path, party):
    party()
    _, spy = run(tmp_path)
    entries = log(tmp_path)
    assert len(entries) == len(spy.replies)
    assert {entry["outcome"] for entry in entries} == {"answered"}
    assert {entry["message"] for entry in entries} == {"query", "train", "evaluate"}
    trained = next(entry for entry in entries if entry["message"] == "train")
    assert trained["method"] == "fedreft"
    assert trained["routine"] == "fedapp.methods.parameter_sharing.ParameterSharing"
    assert (trained["phase"], trained["round"], trained["clients"]) == ("train", 1, [0])
    arrays = trained["left"]["arrays"]
    assert [dtype for _, dtype, _ in arrays] == ["float32"] * 3
    assert trained["left"]["payload-bytes"] == 48
    assert len(trained["left"]["payload-sha256"]) == 64
    assert trained["left"]["facts"]["num-examples"] > 1
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o77 == 0


def test_a_refusal_is_on_record_with_the_whole_reason(tmp_path, party):
    party()
    with pytest.raises(FederationError):
        run(tmp_path, "hostile=noise")
    refused = [entry for entry in log(tmp_path) if entry["outcome"] == "refused"]
    assert refused
    assert all(entry["reason"].startswith("hostile:") for entry in refused)
    assert all(set(entry["left"]["facts"]) == {"failure", "clients"} for entry in refused)


def test_a_server_cannot_fill_the_log_with_a_name(tmp_path, party):
    party()
    run(tmp_path, f"method.about.name={'x' * 5000}")
    assert max(len(entry["method"]) for entry in log(tmp_path)) == 200


def test_a_log_that_others_could_read_is_closed_to_them(tmp_path, party):
    (tmp_path / "audit.jsonl").touch(mode=0o644)
    party()
    run(tmp_path)
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o77 == 0


def test_work_for_another_nodes_client_is_refused():
    config = load_config([*TOY, "num_clients=4"]).to_json()
    with server_identity(1):
        grid = InProcessGrid(client_app.app, 4, {})
        node = grid.get_node_ids()[0]
        work = Work(config, 77, 1, "train", None, False)
        message = Message(work.pack(), dst_node_id=node, message_type="train")
        (reply,) = grid.send_and_receive([message])
    assert unpack(reply.content).facts["failure"] == "client 77 is not this node's"


def test_nothing_leaves_without_a_record(tmp_path, party):
    party(log="/proc/nowhere/audit.jsonl")
    spy = Spy()
    with pytest.raises(FederationError, match="audit log cannot be written"):
        run(tmp_path, spy=spy)
    assert spy.names() <= {"failure", "clients"}


def test_an_adapter_is_kept_where_the_party_says(tmp_path, party):
    party(output=str(tmp_path / "mine"))
    done, _ = run(tmp_path)
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {f"client-{k}" for k in range(4)}
    assert set(done.adapters()) <= {"shared"}  # the server's own


def test_nothing_is_worked_out_for_a_log_that_nobody_keeps(tmp_path, monkeypatch):
    for name in ("left", "asked"):
        monkeypatch.setattr(party_module, name, lambda *_: pytest.fail("worked out"))
    run(tmp_path)


def test_a_policy_changes_no_result(tmp_path, party):
    open_run = run_toy(tmp_path / "open", "method=fedreft", *ROUNDS)
    party(output=str(tmp_path / "mine"))
    run(tmp_path)
    kept = {name: blob for name, blob in open_run.adapters().items() if name != "shared"}
    assert len(kept) == 4
    for name, blob in kept.items():
        assert (tmp_path / "mine" / name / "adapter.safetensors").read_bytes() == blob


def test_a_party_without_network_lets_no_benchmark_fetch_whatever_the_libraries_read_before(party, tmp_path):
    party()
    Party.of({})
    with pytest.raises(ValueError, match="needs the network, which is switched off here"):
        read_remote("owner/name", "x", "train", Columns(["a"], []), "benchmark.path")
    party(network=True)
    Party.of({})
    assert not os.environ.get(OFFLINE_VARIABLE)
