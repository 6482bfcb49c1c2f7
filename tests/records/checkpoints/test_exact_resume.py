"""A run that is killed, however often, and goes on ends as one that was not: every method, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import server_app
from fedapp.core.payload import State
from fedapp.records.checkpoints.stored import read_state, write_state
from tests.contract import METHODS, contract
from tests.federation import Killed, killing, resume_toy, run_toy

ROUNDS = ["num_rounds=3", "evaluate_every=2"]
KILLS = [(2, "train"), (3, "train")]  # each time with a part of the next round done
TIMES = ("seconds", "cpu-seconds", "time", "wire-bytes")


def untimed(value):
    """Without what a clock says, and sizes of messages that hold what a clock says."""
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key not in TIMES}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def left_by(run):
    """All that a run leaves but for clocks: adapters as bytes, rows, the summary, the warnings."""
    rows = {name: untimed(run.rows(name)) for name in ("metrics", "traffic", "consensus")}
    said = list(run.json("run")["warnings"])
    return {**rows, "adapters": run.adapters(), "summary": untimed(run.json("summary")), "warnings": said}


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory):
    """A run that nothing happens to: its settings, its folder, its server half at the end."""
    words = [f"method={request.param}", *contract(request.param).toy, *ROUNDS]
    made = []
    strategy_of = server_app.build_strategy

    def noticed(config):
        made.append((config, strategy_of(config)))
        return made[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app, "build_strategy", noticed)
        run = run_toy(tmp_path_factory.mktemp("whole") / "run", *words)
    return words, run, *made[0]


def test_a_run_killed_after_every_round_ends_as_one_that_was_not(whole, tmp_path):
    words, run, _, _ = whole
    with pytest.raises(Killed):
        run_toy(tmp_path / "killed", *words, network=killing(*KILLS[0]))
    for kill in KILLS[1:]:
        with pytest.raises(Killed):
            resume_toy(tmp_path / "killed", network=killing(*kill))
    assert left_by(resume_toy(tmp_path / "killed")) == left_by(run)


def same(one, other):
    """Whether two values are equal: arrays to the bit, tables and what they hold in their order."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):  # some of them on disk
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and one != one:
        return other != other
    if type(one).__module__.startswith("fedapp.") and hasattr(one, "__dict__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return one == other


def test_a_method_forgets_nothing_that_it_has_learned(whole, tmp_path):
    _, _, config, learned = whole
    write_state(tmp_path / "state", State.of({"method": learned.state()}))
    again = server_app.build_strategy(config)
    again.begin(learned.run)
    again.restore(read_state(tmp_path / "state").part("method"))
    unlike = {"_server_run", "_opened", "_ended", "run", "everyone"}  # of the run; worked out when asked for
    names = set(vars(learned)) - unlike
    assert [name for name in sorted(names) if not same(vars(learned)[name], vars(again)[name])] == []


@pytest.mark.parametrize("method", ["flora", "fed_sb"])
def test_it_does_not_matter_in_which_part_of_a_round_a_run_is_killed(method, tmp_path):
    words = [f"method={method}", *contract(method).toy, *ROUNDS, "clients_per_round=3"]
    whole = run_toy(tmp_path / "whole", *words)
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        run_toy(folder, *words, network=killing(1, "train", client=0))
    for at in ((2, "evaluate"), (3, "evaluate")):
        with pytest.raises(Killed):
            resume_toy(folder, network=killing(*at, client=3))
    assert left_by(resume_toy(folder, num_nodes=2)) == left_by(whole)


@pytest.mark.parametrize("kind", ["Stale", "Noise"])
def test_hostile_clients_go_on_with_their_own_memory(kind, tmp_path):
    hostile = ["hostile.clients=[1]", f"+hostile._target_=fedapp.client.hostile.{kind}"]
    words = ["method=fedavg", *hostile, *ROUNDS]
    whole = run_toy(tmp_path / "whole", *words)
    with pytest.raises(Killed):
        run_toy(tmp_path / "killed", *words, network=killing(2, "train"))
    assert left_by(resume_toy(tmp_path / "killed")) == left_by(whole)
