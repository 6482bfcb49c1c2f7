"""``resume=``: whose settings hold, what is refused, what is brought back."""

import json
import shlex

import pytest

from fedapp.config.build import ConfigError
from fedapp.core.status import holding
from fedapp.engines.closing import opened
from fedapp.engines.job import RunFailed
from fedapp.planning.job import make_job
from fedapp.planning.preflight import check_config
from fedapp.records.checkpoints import opening
from fedapp.records.checkpoints.resume import resumed_words
from tests.federation import Killed, killing, resume_toy, run_toy
from tests.records.checkpoints.test_exact_resume import left_by

SETTINGS = ["method=fedreft", "num_rounds=3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_toy(tmp_path_factory.mktemp("whole") / "run", *SETTINGS)


@pytest.fixture
def killed(tmp_path):
    """A run that was killed in its third round."""
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        run_toy(folder, *SETTINGS, network=killing(3, "train"))
    return folder


def test_where_the_last_checkpoint_is_damaged_the_one_before_it_counts(whole, killed):
    last = killed / "checkpoints" / "server" / "round-000002.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    run = resume_toy(killed)
    (said,) = [text for text in run.json("run")["warnings"] if "round-000002" in text]
    assert said.endswith("the one before it is taken")
    assert run.adapters() == whole.adapters()
    assert run.rows("metrics") == whole.rows("metrics")


def test_rows_that_the_checkpoint_does_not_know_are_cut_off_half_lines_too(whole, killed):
    for name in ("metrics", "traffic"):
        with (killed / f"{name}.jsonl").open("a") as file:
            file.write('{"server-round": 3, "clie')
    assert left_by(resume_toy(killed)) == left_by(whole)


def test_a_file_that_lost_rows_counts_as_a_damaged_checkpoint(whole, killed):
    path = killed / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-16]))
    run = resume_toy(killed)
    assert any("metrics.jsonl lacks rows" in text for text in run.json("run")["warnings"])
    assert run.rows("metrics") == whole.rows("metrics")


def test_a_run_without_a_readable_checkpoint_begins_again(whole, killed):
    for path in (killed / "checkpoints" / "server").iterdir():
        path.write_bytes(b"")
    run = resume_toy(killed)
    assert run.adapters() == whole.adapters()
    assert run.rows("traffic")[0]["server-round"] == 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=2", r"seed was 1, is 2"),
        ("method.routine.mixing.budget=0.5", r"method.routine.mixing.budget was 0.25, is 0.5"),
        ('by_client=["train.batch_size=1"]', r"by_client was \[\], is"),
        ("num_rounds=1", r"num_rounds=1 must be at least 2"),
    ],
)
def test_another_setting_is_refused_by_name_and_nothing_is_touched(killed, word, said):
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=said):
        resume_toy(killed, word)
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before


def test_more_rounds_and_other_means_are_no_other_run(killed, tmp_path):
    longer = run_toy(tmp_path / "longer", "method=fedreft", "num_rounds=5")
    run = resume_toy(killed, "num_rounds=5", "num_threads=2", "round_timeout=25")
    assert run.adapters() == longer.adapters()
    assert run.rows("metrics") == longer.rows("metrics")


def test_a_complete_run_goes_on_with_more_rounds_alone(tmp_path):
    longer = run_toy(tmp_path / "longer", "method=fedreft", "num_rounds=4")
    run_toy(tmp_path / "run", "method=fedreft", "num_rounds=2")
    with pytest.raises(ConfigError, match=r"this run is complete; num_rounds above 2 goes on with it"):
        resume_toy(tmp_path / "run")
    run = resume_toy(tmp_path / "run", "num_rounds=4")
    assert run.adapters() == longer.adapters()
    assert run.rows("metrics") == longer.rows("metrics")  # no final scores of a round that is not the last


def test_what_cannot_go_on_says_why_in_one_line(tmp_path, killed):
    with pytest.raises(ConfigError, match=r"nothing holds no run: it has no run.json"):
        resume_toy(tmp_path / "nothing")
    with holding(killed), pytest.raises(ConfigError, match=r"process \d+ is still at work on this run"):
        resume_toy(killed)
    run_toy(tmp_path / "without", "num_rounds=1", "checkpoints=false")
    assert not (tmp_path / "without" / "checkpoints").exists()
    with pytest.raises(ConfigError, match=r"is complete and kept no checkpoints"):
        resume_toy(tmp_path / "without", "num_rounds=2")


def test_the_settings_of_the_run_stand_before_ones_own_once(killed):
    own = [f"resume={killed}", "num_rounds=9"]
    words = resumed_words(own)
    assert words[-3:] == ["num_rounds=9", f"resume={killed}", f"run_dir={killed}"]
    assert "method=fedreft" in words
    assert resumed_words(words) == words
    assert resumed_words(["seed=3"]) == ["seed=3"]
    said = json.loads((killed / "run.json").read_text())["overrides"]
    assert shlex.join(said)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def job_of(folder):
    words = resumed_words([f"resume={folder}"])
    return make_job(words, check_config(words))


def test_of_two_commands_that_go_on_in_the_same_instant_one_is_refused_and_touches_nothing(killed):
    (killed / "metrics.jsonl").open("a").write("of a round that no checkpoint knows\n")
    before = contents(killed)
    first, second = job_of(killed), job_of(killed)
    assert contents(killed) == before  # only what holds the run changes its files
    with opened(first):
        rows = (killed / "metrics.jsonl").read_text()
        assert "no checkpoint knows" not in rows
        now = contents(killed)
        with (
            pytest.raises(RunFailed, match=r"resume=.*: another process goes on with this run"),
            opened(second),
        ):
            pytest.fail("both have taken it up")
        assert contents(killed) == now


def test_of_two_servers_that_go_on_in_the_same_instant_one_is_refused(whole, killed, monkeypatch):
    find, refused = opening.find_resumable, []

    def find_and_be_overtaken(folder, config, warn):
        kept = find(folder, config, warn)
        with monkeypatch.context() as other:
            other.setattr(opening, "find_resumable", find)
            with pytest.raises(ConfigError) as caught:
                opening.open_folder(config)
        refused.append(str(caught.value))
        return kept

    monkeypatch.setattr(opening, "find_resumable", find_and_be_overtaken)
    run = resume_toy(killed)
    assert refused == [f"resume={killed}: another process goes on with this run at this moment"]
    assert run.adapters() == whole.adapters()
