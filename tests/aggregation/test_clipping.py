"""Centered clipping: what is far comes near, what is near stays bit-equal."""

import numpy as np
import pytest

from fedapp.aggregation import CenteredClip, GeometricMedian, Mean, UploadError


def one(*values):
    return {"w": np.array(values, np.float32)}


def test_an_upload_out_of_reach_is_brought_to_the_reach():
    # Median 1, distances 1, 0, 0, 1, 99: their median is 1, the reach 2; 100 becomes 3.
    uploads = [one(0.0), one(1.0), one(1.0), one(2.0), one(100.0)]
    assert CenteredClip(rule=Mean(), factor=2.0).combine(uploads)["w"] == pytest.approx([7 / 5])
    assert Mean().combine(uploads)["w"] == pytest.approx([104 / 5])


def test_the_direction_is_kept_and_the_centre_is_coordinate_wise():
    # Centre (0, 0) by coordinates; distances 1, 1, 1, 1, 50, reach 1: (30, 40) becomes (0.6, 0.8).
    uploads = [one(1, 0), one(-1, 0), one(0, 1), one(0, -1), one(30, 40)]
    clipped = CenteredClip(rule=Mean(), factor=1.0)._clipped(uploads)
    np.testing.assert_allclose(clipped[4]["w"], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("rule", [Mean(), Mean(weighting="examples"), GeometricMedian()])
def test_without_outliers_it_is_the_other_rule_bit_for_bit(rule):
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 8), "b": (3,)}
    uploads = [{n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()} for _ in range(5)]
    weights = [3, 1, 4, 1, 5]
    clip = CenteredClip(rule=rule, factor=2.0)
    for name, value in rule.combine(uploads, weights).items():
        np.testing.assert_array_equal(clip.combine(uploads, weights)[name], value)
    without, expected = clip.leave_one_out(uploads, weights), rule.leave_one_out(uploads, weights)
    for mine, theirs in zip(without, expected, strict=True):
        np.testing.assert_allclose(mine["w"], theirs["w"], atol=1e-6)


def test_a_client_has_no_influence_on_what_it_receives():
    rng = np.random.default_rng(1)
    uploads = [one(*rng.normal(size=6)) for _ in range(5)]
    clip = CenteredClip(rule=Mean(), factor=1.0)
    clean = clip.leave_one_out(uploads)
    for k in range(5):
        poisoned = list(uploads)
        poisoned[k] = one(*rng.normal(size=6) * 1e20)
        received = clip.leave_one_out(poisoned)
        np.testing.assert_array_equal(received[k]["w"], clean[k]["w"])
        assert (received[(k + 1) % 5]["w"] != clean[(k + 1) % 5]["w"]).any()
        assert np.abs(received[(k + 1) % 5]["w"]).max() < 10  # and little on the others


def test_one_upload_two_uploads_and_equal_uploads_are_taken_as_they_are():
    clip = CenteredClip(rule=Mean(), factor=1.0)
    assert clip.combine([one(5.0)])["w"] == [5.0]
    assert clip.leave_one_out([one(5.0)]) == [{}]
    assert clip.combine([one(0.0), one(10.0)])["w"] == [5.0]
    assert clip.combine([one(4.0)] * 4)["w"] == [4.0]
    assert clip.combine([one(4.0)] * 3 + [one(9.0)])["w"] == [4.0]  # no distance but its own: no reach


def test_uploads_of_half_precision_become_fp32():
    mixed = CenteredClip(rule=Mean()).combine([{"w": np.ones(2, np.float16)}, {"w": np.zeros(2, np.float16)}])
    assert mixed["w"].dtype == np.float32


@pytest.mark.parametrize("call", ["combine", "leave_one_out"])
def test_an_upload_that_is_not_finite_is_named_by_its_place(call):
    with pytest.raises(UploadError) as caught:
        getattr(CenteredClip(rule=Mean()), call)([one(1.0), one(2.0), one(np.nan), one(3.0)])
    assert caught.value.index == 2


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"^factor=0.5 must be a number of at least 1"):
        CenteredClip(rule=Mean(), factor=0.5)
    with pytest.raises(ValueError, match="^rule=null must be a mapping with _target_"):
        CenteredClip(rule=None)
