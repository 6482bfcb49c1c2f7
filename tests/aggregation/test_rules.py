"""The aggregation rules: by hand, against plain loops, and under what a hostile client may send."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
from scipy.optimize import minimize

from fedapp.aggregation import (
    GeometricMedian,
    LinearCombination,
    LinearRule,
    Mean,
    all_but_me,
    check_compatible,
    check_finite,
    geometric_median,
    interpolate,
    weighted_mean,
)
from fedapp.core.types import Arrays
from tests.memory_peak import peak_bytes

EXACT = GeometricMedian(tolerance=0.0, max_iterations=5000, smoothing=1e-12)
RULES = [Mean(), GeometricMedian(), GeometricMedian(per_array=True)]


def one(*values: float) -> Arrays:
    return {"w": np.array(values, np.float32)}


def random_uploads(count: int, seed: int = 0, spread: float = 1.0, offset: float = 0.0) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    shapes = {"a.rotate": (4, 3), "a.weight": (7,), "b.scale": (), "b.weight": (3, 2, 2)}
    return [
        {n: (offset + spread * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
        for _ in range(count)
    ]


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in sorted(arrays)])


def loop_median(points: list[np.ndarray], weights: list[float], steps: int = 50, tol: float = 1e-6):
    """Smoothed Weiszfeld as a textbook writes it, on whole vectors."""
    z = sum(w * x for w, x in zip(weights, points, strict=True)) / sum(weights)
    for _ in range(steps):
        pulls = [
            w / max(math.sqrt(float(((z - x) ** 2).sum())), 1e-6)
            for w, x in zip(weights, points, strict=True)
        ]
        new = sum(p * x for p, x in zip(pulls, points, strict=True)) / sum(pulls)
        step = math.sqrt(float(((new - z) ** 2).sum()))
        z = new
        if step * sum(pulls) / sum(weights) <= tol:
            break
    return z


def same_bits(left: Arrays, right: Arrays) -> bool:
    return list(left) == list(right) and all(left[n].tobytes() == right[n].tobytes() for n in left)


# --- means -------------------------------------------------------------------------------------


def test_weighted_mean_counts_examples():
    assert weighted_mean([one(1, 10), one(5, 30)], [30, 10])["w"].tolist() == [2, 15]


def test_mean_abm_is_the_total_without_the_receiver():
    got = all_but_me({0: one(0), 3: one(3), 6: one(6)}, Mean())
    assert {k: v["w"].tolist() for k, v in got.items()} == {0: [4.5], 3: [3.0], 6: [1.5]}
    uploads = random_uploads(7)
    total = sum(flat(u) for u in uploads)
    for upload, others in zip(uploads, Mean().leave_one_out(uploads), strict=True):
        np.testing.assert_allclose(flat(others), (total - flat(upload)) / 6, rtol=1e-6, atol=1e-7)


def test_mean_abm_takes_no_product_for_every_pair_of_clients(monkeypatch):
    uploads = random_uploads(7, offset=3.0)
    weights = [0.0, 2.0, 5.0, 1.0, 0.0, 7.0, 3.0]
    by_pairs = Mean(weighting="examples").combination(uploads, weights).make()
    monkeypatch.setattr(LinearCombination, "make", lambda *_: pytest.fail("time grows with the square"))
    for found, expected in zip(
        Mean(weighting="examples").leave_one_out(uploads, weights), by_pairs, strict=True
    ):
        np.testing.assert_allclose(flat(found), flat(expected), rtol=2e-7, atol=1e-7)


def test_mean_abm_weighs_by_examples_only_when_told_to():
    uploads, counts = {1: one(8), 2: one(0), 3: one(4)}, {1: 5, 2: 3, 3: 1}
    weighted = all_but_me(uploads, Mean(weighting="examples"), counts)
    assert weighted[1]["w"].tolist() == [1.0]  # (3 * 0 + 1 * 4) / 4
    assert weighted[2]["w"].tolist() == pytest.approx([44 / 6])  # (5 * 8 + 1 * 4) / 6
    assert all_but_me(uploads, Mean(), counts)[1]["w"].tolist() == [2.0]


def test_a_mean_keeps_small_parts_beside_large_ones():
    # In fp32, 1e8 + 1 - 1e8 is 0.
    assert weighted_mean([one(1e8), one(1), one(-1e8)], [1, 1, 1])["w"] == np.float32(1 / 3)


@pytest.mark.parametrize("rule", RULES)
def test_results_are_fp32_of_the_same_names_and_shapes(rule):
    uploads = random_uploads(4)
    for dtype in (np.float16, np.float32, np.float64):
        cast = [{n: a.astype(dtype) for n, a in u.items()} for u in uploads]
        for made in (rule.combine(cast), *rule.leave_one_out(cast)):
            assert {n: (a.shape, a.dtype) for n, a in made.items()} == {
                n: (a.shape, np.float32) for n, a in uploads[0].items()
            }


def test_low_precision_uploads_are_summed_in_high_precision():
    half = [{"w": np.array([v], np.float16)} for v in (2048, 1, 1, 1)]  # in fp16, 2048 + 1 is 2048
    assert weighted_mean(half, [1, 1, 1, 1])["w"].tolist() == [2051 / 4]
    ml_dtypes = pytest.importorskip("ml_dtypes")
    brain = [{"w": np.array([v], ml_dtypes.bfloat16)} for v in (256, 1, 1, 1)]
    assert weighted_mean(brain, [1, 1, 1, 1])["w"].tolist() == [259 / 4]


def test_layout_in_memory_does_not_matter():
    uploads = [{"w": np.asfortranarray(u["a.rotate"])} for u in random_uploads(4)]
    plain = [{"w": np.ascontiguousarray(u["w"])} for u in uploads]
    assert same_bits(GeometricMedian().combine(uploads), GeometricMedian().combine(plain))
    expected = sum(u["w"].astype(float) for u in plain) / 4
    np.testing.assert_allclose(Mean().combine(uploads)["w"], expected, rtol=1e-6)


# --- geometric median --------------------------------------------------------------------------


def test_geometric_median_of_a_symmetric_cross_is_its_centre():
    cross = [one(3, 1), one(-1, 1), one(1, 2), one(1, 0)]
    np.testing.assert_allclose(geometric_median(cross)["w"], [1, 1], atol=1e-6)


def test_geometric_median_on_a_line_is_the_median():
    line = [one(0), one(1), one(2), one(10), one(100)]
    np.testing.assert_allclose(EXACT.combine(line)["w"], [2], atol=1e-5)


def test_a_majority_of_the_weight_decides_the_geometric_median():
    points = [one(0, 0), one(4, 0), one(0, 3)]
    heavy = geometric_median(points, [1, 5, 1], max_iterations=500)
    np.testing.assert_allclose(heavy["w"], [4, 0], atol=1e-5)


@pytest.mark.parametrize("count", [4, 5, 10])
@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_out_medians_equal_one_plain_loop_per_client(count, weighted):
    uploads = random_uploads(count, seed=count)
    weights = [float(1 + k % 3) for k in range(count)] if weighted else [1.0] * count
    rule = GeometricMedian(weighting="examples" if weighted else "uniform")
    for k, median in enumerate(rule.leave_one_out(uploads, weights)):
        others = [j for j in range(count) if j != k]
        expected = loop_median([flat(uploads[j]) for j in others], [weights[j] for j in others])
        assert np.linalg.norm(flat(median) - expected) < 2e-7 * np.linalg.norm(expected)


def test_geometric_median_minimises_the_sum_of_distances():
    for seed, weights in ((1, [1.0] * 6), (2, [1.0, 2.0, 0.5, 1.5, 1.0, 1.0])):
        points = np.random.default_rng(seed).standard_normal((6, 3)).astype(np.float32)
        uploads = [{"w": p} for p in points]
        found = geometric_median(uploads, weights, tolerance=1e-12, max_iterations=5000)

        def cost(z, points=points, weights=weights):
            return float(np.asarray(weights) @ np.linalg.norm(points.astype(float) - z, axis=1))

        best = minimize(cost, points.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
        np.testing.assert_allclose(found["w"], best.x, atol=1e-6)


def test_per_array_takes_one_median_per_array():
    uploads = random_uploads(5)
    apart = list(GeometricMedian(per_array=True).leave_one_out(uploads))
    for name in uploads[0]:
        alone = list(GeometricMedian().leave_one_out([{name: u[name]} for u in uploads]))
        for k in range(5):
            np.testing.assert_allclose(apart[k][name], alone[k][name], rtol=1e-6, atol=1e-7)
    together = list(GeometricMedian().leave_one_out(uploads))
    assert np.abs(flat(apart[0]) - flat(together[0])).max() > 1e-3


def test_geometric_median_moves_and_turns_with_the_uploads():
    rng = np.random.default_rng(3)
    points = rng.standard_normal((6, 5)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    shift = 100 * rng.standard_normal(5)
    before = [m["w"] for m in GeometricMedian().leave_one_out([{"w": p} for p in points])]
    moved = (points.astype(float) @ turn + shift).astype(np.float32)
    after = [m["w"] for m in GeometricMedian().leave_one_out([{"w": p} for p in moved])]
    np.testing.assert_allclose(after, np.array(before, float) @ turn + shift, atol=5e-5)


def test_uploads_that_nearly_agree_keep_their_distances():
    # Far from the origin inner products alone cancel; multiples of 1/4 are exact there in fp32.
    near = [np.round(4 * flat(u)) / 4 for u in random_uploads(6, spread=3.0)]
    far = [{"w": (p + 2.0**20).astype(np.float32)} for p in near]
    found = GeometricMedian().combination(far).groups[0][1]
    expected = GeometricMedian().combination([{"w": p.astype(np.float32)} for p in near]).groups[0][1]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_an_absurd_upload_does_not_blur_others_that_nearly_agree():
    absurd = {"w": np.full(26, 1e12, np.float32)}
    near = [np.round(4 * flat(u)[:26]) / 4 for u in random_uploads(8, spread=3.0)]
    far = [{"w": (p + 2.0**20).astype(np.float32)} for p in near]
    found = GeometricMedian().combination([absurd, *far]).groups[0][1]
    expected = (
        GeometricMedian().combination([absurd, *[{"w": p.astype(np.float32)} for p in near]]).groups[0][1]
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_smoothing_bounds_the_pull_of_a_near_upload():
    # From the mean 2 of 0, 1, 5 the distances are 2, 1, 3; the 1 counts as 2.
    once = geometric_median([one(0), one(1), one(5)], max_iterations=1, smoothing=2.0)
    assert once["w"].tolist() == pytest.approx([(1 / 2 + 5 / 3) / (1 / 2 + 1 / 2 + 1 / 3)])


def test_equal_uploads_have_themselves_as_median():
    upload = random_uploads(1)[0]
    for median in GeometricMedian().leave_one_out([upload] * 4):
        np.testing.assert_allclose(flat(median), flat(upload), rtol=1e-6)


def test_the_median_of_two_is_their_mean():
    # So with 3 clients GeoMedian-ABM is Mean-ABM: any point between two uploads is a median.
    uploads = random_uploads(3)
    means, medians = list(Mean().leave_one_out(uploads)), list(GeometricMedian().leave_one_out(uploads))
    for mean, median in zip(means, medians, strict=True):
        np.testing.assert_allclose(flat(median), flat(mean), rtol=3e-7, atol=1e-7)
    four = random_uploads(4)
    gap = flat(next(Mean().leave_one_out(four))) - flat(next(GeometricMedian().leave_one_out(four)))
    assert np.abs(gap).max() > 1e-3


@pytest.mark.parametrize("size", [1e6, 1e30])
def test_one_absurd_upload_does_not_move_the_median_far(size):
    uploads = random_uploads(9)
    poisoned = [*uploads[:8], {n: np.full_like(a, size) for n, a in uploads[8].items()}]
    honest = np.array([flat(u) for u in uploads[:8]])
    reach = np.linalg.norm(honest - honest.mean(0), axis=1).max()
    for median in list(GeometricMedian().leave_one_out(poisoned))[:8]:
        assert np.linalg.norm(flat(median) - honest.mean(0)) < reach
    z = loop_median([*honest, np.full(honest.shape[1], size)], [1.0] * 9)
    found = flat(GeometricMedian().combine(poisoned))
    assert np.linalg.norm(found - z) < 1e-5 * np.linalg.norm(z)


# --- all but me --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("poison", [1e9, 1e30, -3.0])
def test_no_bit_of_a_download_depends_on_the_receivers_own_upload(rule, poison):
    uploads = dict(enumerate(random_uploads(6)))
    clean = all_but_me(uploads, rule)
    for k in uploads:
        changed = {n: np.full_like(a, poison) for n, a in uploads[k].items()}
        dirty = all_but_me({**uploads, k: changed}, rule)
        assert same_bits(dirty[k], clean[k])
        assert not any(same_bits(dirty[j], clean[j]) for j in uploads if j != k)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_in_which_clients_arrive_does_not_matter(rule):
    uploads = dict(enumerate(random_uploads(6)))
    shuffled = {k: uploads[k] for k in (4, 0, 5, 2, 1, 3)}
    counts = {k: k + 1.0 for k in uploads}
    weighted = rule.__class__(weighting="examples")
    assert list(all_but_me(shuffled, rule)) == sorted(uploads)
    for k in uploads:
        assert same_bits(all_but_me(uploads, rule)[k], all_but_me(shuffled, rule)[k])
        left = all_but_me(uploads, weighted, counts)[k]
        assert same_bits(left, all_but_me(shuffled, weighted, dict(reversed(counts.items())))[k])


@pytest.mark.parametrize("rule", RULES)
def test_renaming_clients_renames_their_downloads(rule):
    uploads = random_uploads(6)
    before = all_but_me(dict(enumerate(uploads)), rule)
    after = all_but_me({9 - k: u for k, u in enumerate(uploads)}, rule)
    for k in range(6):
        np.testing.assert_allclose(flat(after[9 - k]), flat(before[k]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_single_other_client_is_received_as_it_is(rule):
    left, right = random_uploads(2)
    got = all_but_me({7: left, 2: right}, rule)
    assert same_bits(got[7], right)
    assert same_bits(got[2], left)


@pytest.mark.parametrize("rule", RULES)
def test_without_others_there_is_nothing_to_receive(rule):
    assert all_but_me({5: one(1)}, rule) == {5: {}}
    assert all_but_me({}, rule) == {}
    assert all_but_me({1: {}, 2: {}, 3: {}}, rule) == {1: {}, 2: {}, 3: {}}


@pytest.mark.parametrize("rule", RULES)
def test_one_download_at_a_time_equals_all_at_once(rule):
    uploads = random_uploads(5)
    mixture = rule.combination(uploads)
    for k, expected in enumerate(rule.leave_one_out(uploads)):
        np.testing.assert_allclose(flat(mixture.make([k])[0]), flat(expected), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_arrays_longer_than_a_block_are_combined_to_the_end(rule):
    rng = np.random.default_rng(0)
    uploads = [{"w": rng.standard_normal((3, 9001)).astype(np.float32)} for _ in range(4)]
    for k, made in enumerate(rule.leave_one_out(uploads)):
        others = [flat(uploads[j]) for j in range(4) if j != k]
        expected = sum(others) / 3 if isinstance(rule, Mean) else loop_median(others, [1.0] * 3)
        np.testing.assert_allclose(flat(made), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [7, 8, 9, 16, 17, 70])
def test_results_made_in_parts_are_those_of_one_pass(rule, count):
    uploads = random_uploads(count)
    made = list(rule.leave_one_out(uploads))
    assert len(made) == count
    for own, expected in zip(made, rule.combination(uploads).make(), strict=True):
        np.testing.assert_allclose(flat(own), flat(expected), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_results_asked_for_one_by_one_never_lie_in_memory_together(rule):
    count, size = 64, 20_000
    rng = np.random.default_rng(0)
    uploads = [{"w": rng.standard_normal(size).astype(np.float32)} for _ in range(count)]
    peak = peak_bytes(lambda: deque(rule.leave_one_out(uploads), maxlen=0))
    blocks = 2 * 8 * 8000 * (count + 1)
    # Two eighths of the results; of a mean also what comes behind each eighth, in fp64, and before it.
    eighths = 2 + (2 * 9 / 8 if isinstance(rule, Mean) else 0)
    assert peak - blocks < 1.1 * eighths * 4 * size * count / 8


@pytest.mark.parametrize("rule", RULES)
def test_uploads_are_left_as_they_were(rule):
    uploads = random_uploads(4)
    copies = [{n: a.copy() for n, a in u.items()} for u in uploads]
    list(rule.leave_one_out(uploads))
    assert all(same_bits(u, c) for u, c in zip(uploads, copies, strict=True))


# --- mixing own and others ---------------------------------------------------------------------


def test_interpolate_gives_local_weight_to_own():
    assert interpolate(one(8, 0), one(0, 4), 0.25)["w"].tolist() == [2, 3]
    own, others = random_uploads(2)
    assert same_bits(interpolate(own, others, 1), own)
    assert same_bits(interpolate(own, others, 0.0), others)


def test_interpolate_refuses_weights_and_names_that_do_not_fit():
    for weight in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"local_weight=.* must be within \[0, 1\]"):
            interpolate(one(1), one(2), weight)
    with pytest.raises(ValueError, match="others' arrays: has an array 'v', but own arrays has none"):
        interpolate(one(1), {**one(2), "v": np.zeros(1, np.float32)}, 0.5)
    with pytest.raises(ValueError, match=r"own arrays: array 'w' has 1 of 2 values that are not finite"):
        interpolate(one(1, math.inf), one(2, 2), 0.5)


# --- bad input ---------------------------------------------------------------------------------


def test_shapes_that_differ_are_named_with_both_clients():
    with pytest.raises(ValueError, match=r"client 8: array 'w' has shape \[3\], but client 5 has \[2\]"):
        check_compatible({5: one(1, 2), 8: one(1, 2, 3)})
    with pytest.raises(ValueError, match="client 8: lacks 'w', but client 5 has it"):
        check_compatible({5: one(1), 8: {}})
    with pytest.raises(ValueError, match="client 8: array 'w' has dtype uint16"):
        check_compatible({5: one(1), 8: {"w": np.ones(1, np.uint16)}})
    check_compatible({5: one(1), 8: one(2)})
    check_compatible({})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_client(rule, bad):
    uploads = dict(zip((2, 4, 9), random_uploads(3), strict=True))
    uploads[4]["a.weight"][3] = bad
    message = "client 4: array 'a.weight' has 1 of 7 values that are not finite"
    with pytest.raises(ValueError, match=message):
        all_but_me(uploads, rule)
    for start in (rule.combine, rule.leave_one_out, GeometricMedian().combination):
        with pytest.raises(ValueError, match="upload 1: array 'a.weight'"):
            start(list(uploads.values()))
    with pytest.raises(ValueError, match=message):
        check_finite(4, uploads[4])
    check_finite(2, uploads[2])


def test_a_rule_of_ones_own_that_checks_while_it_makes_names_the_client_too():
    class Plain(LinearRule):
        def _combination(self, arrays, rows):
            return LinearCombination(arrays, [(tuple(arrays[0]), rows)])

    uploads = dict(zip((2, 4, 9), random_uploads(3), strict=True))
    uploads[4]["a.weight"][3] = math.nan
    with pytest.raises(ValueError, match="client 4: array 'a.weight' has 1 of 7 values"):
        all_but_me(uploads, Plain())


@pytest.mark.parametrize("rule", RULES)
def test_values_beyond_fp32_are_refused(rule):
    huge = {"w": np.array([1e39])}
    with pytest.raises(ValueError, match="upload 2: array 'w' has values beyond the fp32 range"):
        rule.leave_one_out([one(1), one(2), huge])


@pytest.mark.parametrize("weights", [[1, -1], [3, -1], [0, 0], [1, math.nan], [1, math.inf]])
def test_weights_must_be_finite_not_negative_and_not_all_zero(weights):
    with pytest.raises(ValueError, match="weights=.* must be finite, not negative and not all 0"):
        weighted_mean([one(1), one(2)], weights)


def test_weights_must_be_there_when_asked_for():
    rule = Mean(weighting="examples")
    with pytest.raises(ValueError, match="one weight per upload: 2, got none"):
        rule.combine([one(1), one(2)])
    with pytest.raises(ValueError, match="one weight per upload: 2, got 1"):
        rule.combine([one(1), one(2)], [1])
    with pytest.raises(ValueError, match="must not be 0 for all but upload 1"):
        rule.leave_one_out([one(1), one(2), one(3)], [0, 4, 0])
    with pytest.raises(ValueError, match=r"no entry for clients \[3\]"):
        all_but_me({1: one(1), 3: one(2)}, rule, {1: 5})
    with pytest.raises(ValueError, match="at least one upload"):
        rule.combine([], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "size"}, "weighting='size' must be one of: uniform, examples"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
        ({"tolerance": -1.0}, "tolerance=-1.0 must not be negative"),
        ({"smoothing": 0.0}, "smoothing=0.0 must be greater than 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GeometricMedian(**settings)
