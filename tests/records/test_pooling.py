"""Scores over the rows of all clients together, and their intervals."""

import json

import numpy as np
import pytest

from fedapp.benchmarks.counts import count_answers
from fedapp.benchmarks.metrics import METRICS
from fedapp.records.pooling import mean_interval, mean_of_intervals, pool, pooled_interval, pooled_score
from fedapp.records.rows import ScoreRow
from tests.federation import run_toy

LABELS = ("no", "yes", "maybe")


def row(client, num_examples, counts=(), digest="", **metrics):
    named = {name.replace("_", "-"): value for name, value in metrics.items()}
    return ScoreRow(1, client, "test", "final", "after", num_examples, named, counts, digest)


def answered(sizes, seed=0):
    """A row a client with counts, and all answers and targets together."""
    rng, rows, answers, targets = np.random.default_rng(seed), [], [], []
    for client, size in enumerate(sizes):
        own = rng.choice(LABELS, size=size, p=(0.6, 0.3, 0.1)).tolist()
        given = [target if rng.random() < 0.7 else str(rng.choice([*LABELS, ""])) for target in own]
        counts = count_answers(given, own, LABELS)
        rows.append(row(client, size, counts, "d", accuracy=METRICS["accuracy"](given, own)))
        answers, targets = answers + given, targets + own
    return rows, answers, targets


@pytest.mark.parametrize("name", ["accuracy", "macro-f1", "matthews-correlation"])
def test_a_pooled_score_is_the_metric_of_all_answers_together(name):
    rows, answers, targets = answered((6, 40, 152))
    assert pooled_score(rows, name) == pytest.approx(METRICS[name](answers, targets), abs=1e-12)


def test_a_mean_over_rows_is_weighted_by_rows_and_any_other_metric_is_absent():
    rows = [
        row(0, 6, accuracy=0.5, rouge_l=0.2, pearson=0.9),
        row(1, 94, accuracy=1.0, rouge_l=0.7, pearson=0.1),
    ]
    assert pooled_score(rows, "accuracy") == pytest.approx(0.97)
    assert pooled_score(rows, "rouge-l") == pytest.approx(0.67)
    for name in ("macro-f1", "matthews-correlation", "pearson"):
        assert pooled_score(rows, name) is None
        assert pooled_interval(rows, name) is None
    assert pooled_interval(rows, "rouge-l") is None
    assert pool([], None).score is None


def test_shards_of_unequal_size_can_turn_a_result_round_and_pooling_says_so():
    small_wins = [row(0, 6, accuracy=1.0), row(1, 152, accuracy=0.3)]
    large_wins = [row(0, 6, accuracy=0.5), row(1, 152, accuracy=0.5)]
    assert np.mean([0.3, 1.0]) > 0.5
    assert pooled_score(small_wins, "accuracy") < pooled_score(large_wins, "accuracy")


def test_clients_that_keep_their_numbers_of_rows_are_in_no_pooled_score():
    pooled = pool([row(0, 0, accuracy=0.5), row(1, 94, accuracy=1.0)], "accuracy")
    assert (pooled.score, pooled.interval, pooled.num_examples) == (None, None, None)


def test_one_client_without_counts_leaves_the_accuracy_and_takes_the_f1():
    rows, _, _ = answered((20, 30))
    rows[1] = row(1, 30, accuracy=rows[1].metrics["accuracy"])
    pooled = pool(rows, "accuracy")
    assert pooled.score is not None
    assert pooled.macro_f1 is None


@pytest.mark.parametrize(("digests", "one"), [("aa", True), ("ab", False), (("a", ""), None)])
def test_clients_have_one_model_if_all_say_the_same_digest(digests, one):
    rows = [row(client, 5, digest=digest, accuracy=0.5) for client, digest in enumerate(digests)]
    assert pool(rows, "accuracy").one_model is one


def bootstrap(score, answers, targets, samples=2000):
    """Plain: rows drawn with replacement, scored one sample after the other."""
    rng, answers, targets = np.random.default_rng(1), np.array(answers), np.array(targets)
    drawn = [rng.integers(len(targets), size=len(targets)) for _ in range(samples)]
    return np.percentile([score(answers[i], targets[i]) for i in drawn], (2.5, 97.5))


def test_the_interval_is_that_of_a_plain_bootstrap_over_rows():
    rows, answers, targets = answered((30, 70, 100))
    plain = bootstrap(lambda a, t: np.mean(a == t), answers, targets)
    assert pooled_interval(rows, "accuracy") == pytest.approx(plain, abs=0.012)
    without = [row(one.client_id, one.num_examples, accuracy=one.metrics["accuracy"]) for one in rows]
    assert pooled_interval(without, "accuracy") == pytest.approx(plain, abs=0.012)

    def macro_f1(a, t):  # by hand: scikit-learn takes a second for as many samples
        scores = [2 * ((a == n) & (t == n)).sum() / ((a == n).sum() + (t == n).sum()) for n in LABELS]
        return np.mean(scores)

    plain = bootstrap(macro_f1, answers, targets)
    assert pooled_interval(rows, "macro-f1") == pytest.approx(plain, abs=0.02)


def test_the_interval_of_a_mean_draws_each_clients_rows_by_themselves():
    rows = [row(0, 10, accuracy=0.5), row(1, 1000, accuracy=0.5)]
    low, high = mean_interval(rows, "accuracy")
    # Half of a binomial of 10 rows: its standard deviation is 0.158, of the mean 0.079.
    assert high - low == pytest.approx(2 * 1.96 * 0.0794, rel=0.15)
    low, high = pooled_interval(rows, "accuracy")
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(1010), rel=0.1)


def test_the_same_rows_give_the_same_interval_and_a_right_score_has_none_around_it():
    rows, _, _ = answered((30, 70))
    assert pooled_interval(rows, "accuracy") == pooled_interval(rows, "accuracy")
    assert pooled_interval([row(0, 50, accuracy=1.0)], "accuracy") == (1.0, 1.0)
    assert mean_of_intervals([(0.1, 0.3), (0.3, 0.5)]) == pytest.approx((0.2, 0.4))
    assert mean_of_intervals([(0.1, 0.3), None]) is None
    assert mean_of_intervals([]) is None


FINAL = ["num_rounds=1", "score.base=false", "score.before=false", "score.after=false"]


@pytest.mark.parametrize(("method", "one"), [("fedavg", True), ("local", False)])
def test_a_run_says_whether_its_clients_end_with_one_model(tmp_path, method, one):
    done = run_toy(tmp_path / "run", f"method={method}", *FINAL, "+benchmark.labels=['0','1','2','3']")
    final = done.json("summary")["final"]
    assert final["one-model"] is one
    kept = {name: data for name, data in done.adapters().items() if name.startswith("client")}
    assert (len(set(kept.values())) == 1) is one
    rows = [line for line in done.rows("metrics") if (line["model"], line["split"]) == ("final", "test")]
    assert final["test-rows"] == sum(line["num-examples"] for line in rows)
    right = sum(line["label-counts"][n][n] for line in rows for n in range(4))
    assert final["pooled-score"] == pytest.approx(right / final["test-rows"])
    assert final["pooled-macro-f1"] is not None
    spent = [one["cpu-seconds"] for one in done.json("summary")["clients"]]
    assert all(seconds >= 0 for seconds in spent)
    assert all("cpu-seconds" in line for line in done.rows("events") if line["event"] == "reply")


def test_counts_in_metrics_that_are_none_are_refused():
    head = {"server-round": 1, "client-id": 0, "split": "test", "model": "final", "moment": "after"}
    good = {**head, "num-examples": 3, "label-counts": [[1, 0, 1], [0, 1, 0]]}
    assert ScoreRow.from_json(json.loads(json.dumps(good))).to_json() == good
    for bad in ([[1, 0], [0, 1]], [[1, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 1, -0.0]], "x"):
        with pytest.raises(ValueError, match="label-counts that do not count its num-examples rows"):
            ScoreRow.from_json({**good, "label-counts": bad})
