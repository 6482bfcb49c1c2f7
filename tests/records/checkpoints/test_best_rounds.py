"""The best round's adapters, those of every few rounds, and runs that end when they get no better."""

import pytest
from safetensors.numpy import load_file

from fedapp.config.build import ConfigError
from fedapp.records.checkpoints.best import best_so_far, rounds_to_keep, why_to_stop
from fedapp.records.rows import ScoreRow
from tests.federation import Killed, killing, resume_toy, run_toy

JUDGED = ["method=fedreft_fixed", "score.splits=[test,validation]", "evaluate_every=1"]


def rounds_kept(run, owner):
    return sorted(
        int(path.name.removeprefix("round-")) for path in (run.folder / "adapters" / owner).glob("round-*")
    )


def scored(*means):
    """Rows of one client, evaluated after rounds 1, 2, …"""
    return [
        ScoreRow(number, 0, split, "current", "after", 10, {"accuracy": mean})
        for number, mean in enumerate(means, start=1)
        for split in ("test", "validation")
    ]


def test_the_best_round_and_every_nth_are_kept():
    rows = scored(0.2, 0.5, 0.5, 0.1)
    assert best_so_far(rows) == 2
    assert best_so_far(scored(0.2)) == 1
    assert best_so_far([]) is None
    assert rounds_to_keep(rows, 0, 5, validated=True, final=False) == [2, 5]
    assert rounds_to_keep(rows, 0, 5, validated=True, final=True) == [2]
    assert rounds_to_keep(rows, 2, 5, validated=False, final=False) == [2, 4]
    assert rounds_to_keep([], 0, 5, validated=False, final=False) == []


def test_patience_counts_evaluated_rounds_that_are_no_better():
    rows = scored(0.2, 0.5, 0.5, 0.1)
    assert why_to_stop(rows, 3, "4 of 9") == ""
    assert why_to_stop(rows, 0, "4 of 9") == ""
    assert "after round 4 of 9: the validation score has not been better since round 2" in why_to_stop(
        rows, 2, "4 of 9"
    )


def test_a_run_ends_when_it_gets_no_better_and_keeps_its_best_adapters(tmp_path):
    run = run_toy(tmp_path / "run", *JUDGED, "num_rounds=30", "patience=2")
    about, best = run.json("run"), run.json("summary")["best-round"]["server-round"]
    last = max(row["server-round"] for row in run.rows("metrics"))
    assert about["status"] == "completed"
    assert about["reason"].startswith(
        f"ended after round {last} of 30: the validation score has not been better"
    )
    assert best < last < 30
    assert {row["server-round"] for row in run.rows("metrics") if row["model"] == "final"} == {last}
    assert rounds_kept(run, "client-0") == [best]
    assert best in rounds_kept(run, "shared")
    for end, folder in ((best, f"round-{best:06d}/"), (last, "")):
        other = run_toy(tmp_path / f"to-{end}", *JUDGED, f"num_rounds={end}")
        kept = load_file(run.folder / "adapters" / "client-0" / f"{folder}adapter.safetensors")
        final = load_file(other.folder / "adapters" / "client-0" / "adapter.safetensors")
        assert {name: array.tobytes() for name, array in kept.items()} == {
            name: array.tobytes() for name, array in final.items()
        }


def test_a_killed_run_stops_in_the_same_round(tmp_path):
    words = [*JUDGED, "num_rounds=30", "patience=2"]
    whole = run_toy(tmp_path / "whole", *words)
    with pytest.raises(Killed):
        run_toy(tmp_path / "killed", *words, network=killing(2, "evaluate"))
    run = resume_toy(tmp_path / "killed")
    assert run.adapters() == whole.adapters()
    assert run.rows("metrics") == whole.rows("metrics")
    assert rounds_kept(run, "client-1") == rounds_kept(whole, "client-1")


def test_adapters_are_kept_every_few_rounds(tmp_path):
    run = run_toy(tmp_path / "run", "num_rounds=5", "keep_adapters_every=2")
    assert rounds_kept(run, "client-3") == rounds_kept(run, "shared") == [2, 4]
    none = run_toy(tmp_path / "none", "num_rounds=3", "keep_adapters_every=2", "save_adapters=false")
    assert not (none.folder / "adapters").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["patience=2"], r"patience=2 needs evaluate_every"),
        (["patience=2", "evaluate_every=1"], r"patience=2 needs validation among score.splits"),
        (["patience=-1"], r"patience=-1 must be a whole number"),
    ],
)
def test_patience_without_anything_to_judge_by_is_refused(words, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run_toy(tmp_path / "run", *words)
