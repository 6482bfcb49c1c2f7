"""Answers counted by target: what is computed from counts is what the metrics compute from answers."""

import numpy as np
import pytest

from fedapp.benchmarks.counts import FROM_COUNTS, count_answers
from fedapp.benchmarks.metrics import METRICS

LABELS = ("ham", "spam", "eggs")


def test_counts_by_hand():
    counts = count_answers(["ham", "", "ham", "bacon"], ["ham", "ham", "spam", "spam"], LABELS)
    assert counts == ((1, 0, 0, 1), (1, 0, 0, 1), (0, 0, 0, 0))


@pytest.mark.parametrize("labels", [None, (), ("ham",), tuple(map(str, range(65)))])
def test_where_targets_are_no_labels_or_there_are_too_many_nothing_is_counted(labels):
    assert count_answers(["ham"], ["spam"], labels) is None
    assert count_answers(["1"], ["1"], tuple(map(str, range(65)))) is None


@pytest.mark.parametrize("name", FROM_COUNTS)
@pytest.mark.parametrize("others", [(), ("",)])
def test_every_metric_from_counts_is_the_metric_of_the_answers(name, others):
    rng = np.random.default_rng(7)
    for targets_of in (LABELS, LABELS[:2], LABELS[:1]):  # a label that no row has, one class alone
        for _ in range(20):
            targets = rng.choice(targets_of, size=30).tolist()
            answers = rng.choice([*LABELS, *others], size=30).tolist()
            counts = np.array(count_answers(answers, targets, LABELS))
            assert FROM_COUNTS[name](counts) == pytest.approx(METRICS[name](answers, targets), abs=1e-12)


@pytest.mark.parametrize("name", FROM_COUNTS)
def test_samples_along_a_leading_axis_are_scored_one_by_one(name):
    samples = np.random.default_rng(3).integers(1, 9, size=(5, 3, 4))
    assert FROM_COUNTS[name](samples) == pytest.approx([float(FROM_COUNTS[name](one)) for one in samples])
