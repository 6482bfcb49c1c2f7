"""A search learns from what its runs come to, and knows what is best."""

import json
import statistics

import pytest

from fedapp.cli.sweeps.jobs import JobRecord
from fedapp.cli.sweeps.search import Search, best_of, objectives_of
from fedapp.config.search import Drawn, SweepSettings, drawn_settings
from fedapp.config.sweep import parse_overrides

SCORE, BYTES = "validation-score", "payload-bytes"
STEP = Drawn("step", low=0.1, high=1.0)


def job(number, folder, score=0.5, sent=10, words=()):
    """A complete run of a score that sent and received as many bytes."""
    run = folder / f"run-{number}"
    run.mkdir()
    total = {"sent-bytes": sent, "received-bytes": sent, "cpu-seconds": 2.0}
    final = {"mean-validation-score": score}
    (run / "summary.json").write_text(json.dumps({"best-round": None, "final": final, "total": total}))
    return JobRecord(number, list(words), "completed", "", str(run), score)


def searched(folder, numbers, settings, score, jobs=()):
    """What a search draws, one after the other."""
    search, found = Search(settings, [STEP], ["seed=1"], folder, jobs), []
    for number in numbers:
        words = search.ask(number)
        found.append(float(words[1].partition("=")[2]))
        search.tell(job(number, folder, score(found[-1]), words=words))
    return found


def test_a_search_draws_where_scores_were_best(tmp_path):
    settings = SweepSettings(num_trials=30, objectives=[SCORE])
    drawn = searched(tmp_path, range(30), settings, lambda step: 1 - abs(step - 0.3))
    # Ten are drawn at random, from 0.1 to 1.
    assert statistics.fmean(abs(step - 0.3) for step in drawn[20:]) < 0.1


def test_the_same_seed_draws_the_same_and_another_one_others(tmp_path):
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = SweepSettings(num_trials=3, objectives=[SCORE], seed=seed)
        drawn.append(searched(folder, range(3), settings, lambda step: step))
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_was_scored_before_a_search_was_killed_is_not_run_again(tmp_path):
    settings = SweepSettings(num_trials=3, objectives=[SCORE])
    search = Search(settings, [STEP], ["seed=1"], tmp_path)
    words = [search.ask(number) for number in (1, 2)]
    # Killed before it was told of either; the first one's run was complete.
    again = Search(settings, [STEP], ["seed=1"], tmp_path, [job(1, tmp_path, words=words[0])])
    assert again.ask(2) == words[1]
    assert again.ask(3) not in words
    assert [trial.values for trial in again.study.trials][:2] == [[0.5], None]


def test_what_no_other_run_is_better_than_is_best(tmp_path):
    # Score and bytes: the third is worse than the second by both, the fifth equals the first.
    runs = [(0.5, 10), (0.7, 20), (0.6, 30), (0.4, 5), (0.5, 10)]
    jobs = [job(number, tmp_path, *run) for number, run in enumerate(runs, start=1)]
    assert [(one.number, values) for one, values in best_of(jobs, [SCORE, BYTES])] == [
        (1, [0.5, 20.0]),
        (2, [0.7, 40.0]),
        (4, [0.4, 10.0]),
    ]
    assert [one.number for one, _ in best_of(jobs, [SCORE])] == [2]
    assert [one.number for one, _ in best_of(jobs, ["sent-bytes"])] == [4]


def test_a_run_that_does_not_say_has_no_objectives(tmp_path):
    assert objectives_of(job(1, tmp_path, score=None), [SCORE]) is None
    assert objectives_of(job(2, tmp_path), ["cpu-seconds", BYTES]) == [2.0, 20.0]
    assert objectives_of(JobRecord(3, [], "failed"), [BYTES]) is None


@pytest.mark.parametrize(
    ("word", "drawn"),
    [
        ("method=fedit,local", Drawn("method", ("fedit", "local"))),
        ("adapter.rank=range(2,10,3)", Drawn("adapter.rank", low=2, high=8, step=3)),
        ("a.b=int(interval(1,8))", Drawn("a.b", low=1, high=8, step=1)),
        ("a.b=tag(log,interval(0.001,1))", Drawn("a.b", low=0.001, high=1, log=True)),
    ],
)
def test_what_is_drawn_is_written_as_hydra_users_write_it(word, drawn):
    assert drawn_settings(parse_overrides([word, "seed=3"])) == [drawn]
