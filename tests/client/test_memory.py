"""A client's memory on the party's own disk: where it is, and that a node that was started again goes on."""

import numpy as np
import pytest
import yaml

from fedapp.client.resident.memory import Memories
from fedapp.core.files import POLICY_VARIABLE
from fedapp.core.payload import Payload
from fedapp.engines.grid import InProcessGrid
from fedapp.records.checkpoints.memory import Memory
from fedapp.server.run import ServerRun
from fedapp.wire.frames import Records
from fedapp.wire.messages import Work
from fedapp.wire.records import Envelope, pack
from tests.federation import Killed, ToyRun, killing, resume_toy, run_on, run_toy

SETTINGS = ["num_rounds=3", "method=fedreft_fixed"]


class Restarted(InProcessGrid):
    """Every node has forgotten everything before every message, as one that was started again."""

    def __init__(self, *args):
        super().__init__(*args)
        self.first = dict(self._contexts)

    def push_messages(self, messages):
        self._contexts.update(self.first)
        return super().push_messages(messages)


class Late(InProcessGrid):
    """What a node remembers is stored when its next message has been answered, as large memories may be."""

    def _keep(self, context):
        waiting = self.__dict__.setdefault("waiting", {})
        super()._keep(waiting.get(context.node_id, context))
        waiting[context.node_id] = context


@pytest.fixture
def party(monkeypatch, tmp_path):
    """Sets the policy of all nodes."""

    def settle(**folders):
        file = tmp_path / "party.yaml"
        file.write_text(yaml.safe_dump({name: str(tmp_path / folder) for name, folder in folders.items()}))
        monkeypatch.setenv(POLICY_VARIABLE, str(file))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        return tmp_path

    return settle


def own(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("client-*/adapter.safetensors")}


@pytest.mark.parametrize("network", [Restarted, Late])
def test_nodes_without_their_newest_memory_go_on_from_the_folder_of_their_policy(party, tmp_path, network):
    party(output="whole", memory="memory")
    run_toy(tmp_path / "run-a", *SETTINGS)
    party(output="odd", memory="memory")
    run = run_on(network, tmp_path / "run-b", *SETTINGS)
    assert own(tmp_path / "odd") == own(tmp_path / "whole")
    assert len(own(tmp_path / "whole")) == 4
    assert not any("memory" in text for text in run.warnings())
    keys = list((tmp_path / "memory").iterdir())
    assert len(keys) == 2  # each run has its own
    assert {path.name for key in keys for path in key.iterdir()} == {f"client-{n}" for n in range(4)}
    assert not list((tmp_path / "run-a" / "checkpoints").glob("client-*"))


def test_a_run_that_goes_on_finds_the_memory_of_its_parties(party, tmp_path):
    party(output="whole", memory="memory")
    run_toy(tmp_path / "run-a", *SETTINGS)
    party(output="killed", memory="memory")
    with pytest.raises(Killed):
        run_toy(tmp_path / "run-b", *SETTINGS, network=killing(3, "train"))
    resume_toy(tmp_path / "run-b")
    assert own(tmp_path / "killed") == own(tmp_path / "whole")


def test_without_a_folder_the_loss_is_named(party, tmp_path):
    party(output="whole")
    run = run_on(Restarted, tmp_path / "run", *SETTINGS)
    said = [text for text in run.warnings() if "goes on without its memory" in text]
    assert len([text for text in said if "client 2 " in text]) >= 2
    assert "its policy names no folder for it (memory)" in said[0]


def test_without_a_folder_a_memory_that_is_stored_too_late_is_named(party, tmp_path):
    party(output="late")
    run = run_on(Late, tmp_path / "run", *SETTINGS)
    said = [text for text in run.warnings() if text.startswith("round 3: client 2 ")]
    assert "without its memory of round 2, from that of round 1: " in said[0]


def test_a_process_that_stays_takes_its_own_newer_memory():
    memories, work = Memories(), of_round(1, None)
    assert memories.recall(work, Records(), None) == Memory(0, {})
    stored = memories.keep(work, {"a": np.ones(2, np.float32)}, None)
    memories.keep(of_round(2, 1), {"a": np.zeros(2, np.float32)}, None)
    found = memories.recall(of_round(3, 2), stored, None)
    assert (found.server_round, found.arrays["a"].tolist()) == (2, [0, 0])
    found.arrays["a"] += 7  # a routine that fails half-way
    assert memories.recall(of_round(3, 2), stored, None).arrays["a"].tolist() == [0, 0]
    assert memories.recall(of_round(2, 1), stored, None).arrays["a"].tolist() == [1, 1]  # a round done again
    assert Memories().recall(of_round(3, 2), Records(), None) is None


def test_what_is_left_of_a_round_that_is_done_again_is_forgotten(tmp_path):
    memories = Memories()
    for number in (1, 2, 3):
        memories.keep(of_round(number, number - 1), {"a": np.full(1, number, np.float32)}, tmp_path)
    again = Memories()  # the run goes on from round 2, and this client fails in the new round 3
    assert again.recall(of_round(3, 2), Records(), tmp_path).server_round == 2
    assert again.recall(of_round(4, 3), Records(), tmp_path).server_round == 2


def test_what_an_older_fedapp_left_with_flower_is_the_oldest_there_is(tmp_path):
    stored = pack(Envelope({}, Payload({"a": np.ones(1, np.float32)})), prefix="client-0")
    assert Memories().recall(of_round(3, 2), stored, None).server_round == 0
    Memories().keep(of_round(2, 1), {"a": np.zeros(1, np.float32)}, tmp_path)
    assert Memories().recall(of_round(3, 2), stored, tmp_path).server_round == 2


def test_a_checkpoint_of_an_older_fedapp_that_names_clients_alone_is_gone_on_from(tmp_path, monkeypatch):
    keep = ServerRun.keep

    def as_before(self, server_round, method, **facts):
        class Clients(dict):
            def items(self):
                return list(self)

        self.heard, heard = Clients(self.heard), self.heard
        keep(self, server_round, method, **facts)
        self.heard = heard

    whole = run_toy(tmp_path / "whole", *SETTINGS).adapters()
    monkeypatch.setattr(ServerRun, "keep", as_before)
    with pytest.raises(Killed):
        run_toy(tmp_path / "run", *SETTINGS, network=killing(3, "train"))
    monkeypatch.setattr(ServerRun, "keep", keep)
    resume_toy(tmp_path / "run")
    assert ToyRun(tmp_path / "run").adapters() == whole


def of_round(number, asked_last):
    return Work("{}", 0, number, "train", None, False, asked_last=asked_last)
