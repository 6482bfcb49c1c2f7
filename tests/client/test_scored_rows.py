"""What is scored: the rows of the split that is named, the answers as the benchmark reads them, the loss."""

import math

import numpy as np
import pytest

from fedapp.client.scoring import ScoreConfig, Scorer
from fedapp.core.session import ClientSession
from fedapp.core.types import Example


class Model:
    """Answers ``<prompt>!``, and its loss on rows is the sum of their labels."""

    known = True

    def generate(self, prompts, decoding=None):
        return [f"{prompt}!" for prompt in prompts]

    def loss(self, examples):
        return float(sum(example.label for example in examples)) if self.known else math.nan


class Benchmark:
    """Reads an answer without its mark; the main metric is the share of answers that are right."""

    has_options = False

    def extract(self, completion):
        return completion.removesuffix("!")

    def score(self, answers, targets):
        right = sum(a == t for a, t in zip(answers, targets, strict=True))
        return {"accuracy": right / len(targets), "answered": float(len(answers))}


def rows(split, count, label, right):
    """Rows whose answers are right where their number is below ``right``."""
    return [
        Example(f"{split} {i}", f"{split} {i}" if i < right else "other", "t", label) for i in range(count)
    ]


def opened():
    sets = rows("train", 2, 1, 2), rows("validation", 3, 10, 0), rows("test", 4, 100, 1)
    return ClientSession(0, 1, Model(), *sets, {}, np.random.default_rng(0))


def scorer(*splits):
    return Scorer(Model(), Benchmark(), ScoreConfig(splits, base=True, before=True, after=True))


def test_each_split_is_scored_on_its_own_rows_and_on_no_others():
    scored = scorer("test", "validation").rows(opened(), "own", "after")
    assert [(row.split, row.model, row.moment, row.num_examples, row.scores) for row in scored] == [
        ("test", "own", "after", 4, {"loss": 400.0, "accuracy": 0.25, "answered": 4.0}),
        ("validation", "own", "after", 3, {"loss": 30.0, "accuracy": 0.0, "answered": 3.0}),
    ]


def test_only_the_splits_that_are_named_and_that_the_client_has_are_scored():
    assert [row.split for row in scorer("test").rows(opened(), "own", "after")] == ["test"]
    session = opened()
    session.val_set = []
    assert [row.split for row in scorer("validation", "test").rows(session, "own", "after")] == ["test"]


def test_a_model_without_a_loss_has_metrics_alone(monkeypatch):
    monkeypatch.setattr(Model, "known", False)
    (row,) = scorer("test").rows(opened(), "own", "after")
    assert list(row.scores) == ["accuracy", "answered"]


def test_the_main_metric_is_the_benchmarks_first_on_the_rows_given():
    assert scorer().main_metric(rows("any", 4, 0, 3)) == 0.75


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_each_moment_is_scored_where_it_is_wanted(before, after):
    config = ScoreConfig(("test",), base=False, before=before, after=after)
    assert (config.wants("before"), config.wants("after")) == (before, after)
