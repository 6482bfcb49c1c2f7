"""The coordinate-wise median against numpy's, upload by upload."""

import numpy as np
import pytest

from fedapp.aggregation import Rule, UploadError
from fedapp.aggregation.median import CoordinateMedian


def uploads(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"a": rng.standard_normal((3, 2)).astype(np.float32), "b": rng.integers(0, 3, 5).astype(np.float32)}
        for _ in range(count)
    ]


def test_three_values_by_hand():
    given = [{"w": np.array([value, -value], np.float32)} for value in (1.0, 100.0, 3.0)]
    rule = CoordinateMedian()
    assert rule.combine(given)["w"].tolist() == [3.0, -3.0]
    assert [made["w"].tolist() for made in rule.leave_one_out(given)] == [
        [51.5, -51.5],
        [2, -2],
        [50.5, -50.5],
    ]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_it_is_numpys_median_of_all_and_of_all_the_others(count):
    given = uploads(count)
    everyone = CoordinateMedian().combine(given)
    others = CoordinateMedian().leave_one_out(given)
    for name in given[0]:
        stacked = np.stack([upload[name] for upload in given]).astype(np.float64)
        assert everyone[name].dtype == np.float32
        np.testing.assert_array_equal(everyone[name], np.median(stacked, axis=0).astype(np.float32))
        for left_out, made in enumerate(others):
            rest = np.median(np.delete(stacked, left_out, axis=0), axis=0)
            np.testing.assert_array_equal(made[name], rest.astype(np.float32))


def test_one_absurd_upload_of_five_moves_nothing_out_of_the_others_range():
    given = uploads(5)
    given[2] = {name: np.full_like(value, 1e30) for name, value in given[2].items()}
    for name, value in CoordinateMedian().combine(given).items():
        assert value.max() <= max(upload[name].max() for k, upload in enumerate(given) if k != 2)


def test_what_cannot_be_combined_is_refused_as_by_every_rule():
    rule = CoordinateMedian()
    assert isinstance(rule, Rule)
    assert rule.leave_one_out(uploads(1)) == [{}]
    with pytest.raises(ValueError, match=r"uploads=\[\]"):
        rule.combine([])
    spoiled = uploads(3)
    spoiled[1]["a"][0, 0] = np.nan
    for start in (rule.combine, rule.leave_one_out):
        with pytest.raises(UploadError, match="upload 1: array 'a'"):
            start(spoiled)
    with pytest.raises(UploadError, match="upload 2"):
        rule.combine([*uploads(2), {"a": np.zeros(3, np.float32)}])
