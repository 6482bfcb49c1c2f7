"""Rotations of low-rank updates, by hand and against scipy."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes, polar
from scipy.spatial.transform import Rotation

from fedapp.aggregation.alignment import align, rotation, soften
from fedapp.aggregation.low_rank import product

QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])


def factors(a, b, layer="x"):
    return {f"{layer}.lora_A": np.asarray(a, np.float32), f"{layer}.lora_B": np.asarray(b, np.float32)}


def random(rank=3, width=6, height=5, seed=0):
    rng = np.random.default_rng(seed)
    return factors(rng.normal(size=(rank, width)), rng.normal(size=(height, rank)))


def test_a_quarter_turn_is_taken_back():
    # A = turn of (1, 0), (0, 1): rows (0, -1), (1, 0); turned back it is the reference again.
    np.testing.assert_allclose(rotation(QUARTER, np.eye(2)), QUARTER.T, atol=1e-15)


def test_with_reflections_it_is_the_procrustes_solution_of_scipy():
    rng = np.random.default_rng(1)
    factor, reference = rng.normal(size=(2, 4, 7))
    expected, _ = orthogonal_procrustes(factor.T, reference.T)
    np.testing.assert_allclose(rotation(factor, reference, reflections=True), expected.T, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_without_reflections_it_is_kabschs_rotation(seed):
    rng = np.random.default_rng(seed)
    factor, reference = rng.normal(size=(2, 3, 5))
    expected, _ = Rotation.align_vectors(reference.T, factor.T)
    found = rotation(factor, reference)
    np.testing.assert_allclose(found, expected.as_matrix(), atol=1e-10)
    assert np.linalg.det(found) == pytest.approx(1)


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("reflections", [False, True])
def test_the_product_stays_what_it_is(factor, weight, reflections):
    upload, reference = random(seed=1), random(seed=2)
    turned = align(upload, reference, factor, weight=weight, reflections=reflections)
    before, after = product([upload]), product([turned])
    np.testing.assert_allclose(after["x.merged"], before["x.merged"], atol=1e-5)
    moved = np.abs(turned["x.lora_A"] - upload["x.lora_A"]).max()
    assert (moved > 1e-3) == (weight > 0)


@pytest.mark.parametrize("factor", ["A", "B"])
def test_the_named_factor_comes_closer_to_the_reference(factor):
    upload, reference = random(seed=1), random(seed=2)
    turned = align(upload, reference, factor)
    other = align(upload, reference, "B" if factor == "A" else "A")
    name = f"x.lora_{factor}"
    distance = np.linalg.norm(turned[name] - reference[name])
    assert distance < np.linalg.norm(upload[name] - reference[name])
    assert distance < np.linalg.norm(other[name] - reference[name])


def test_of_rank_one_a_reflection_turns_the_sign_and_a_rotation_does_nothing():
    upload, reference = factors([[-1, -2]], [[-3], [4]]), factors([[2, 3]], [[1], [0]])
    mirrored = align(upload, reference, "A", reflections=True)
    assert mirrored["x.lora_A"].tolist() == [[1, 2]]
    assert mirrored["x.lora_B"].tolist() == [[3], [-4]]
    assert align(upload, reference, "A")["x.lora_A"].tolist() == [[-1, -2]]


def test_half_of_a_quarter_turn_is_an_eighth():
    eighth = np.sqrt(0.5) * np.array([[1, -1], [1, 1]])
    np.testing.assert_allclose(soften(QUARTER, 0.5), eighth, atol=1e-15)
    third = 0.7 * np.eye(2) + 0.3 * QUARTER
    np.testing.assert_allclose(soften(QUARTER, 0.3), polar(third)[0], atol=1e-15)


def test_a_reference_of_zeros_turns_nothing():
    upload, zero = random(), factors(np.zeros((3, 6)), np.zeros((5, 3)))
    for factor in ("A", "B"):
        np.testing.assert_allclose(align(upload, zero, factor)["x.lora_A"], upload["x.lora_A"])


def test_what_is_no_pair_or_not_in_the_reference_passes_as_it_is():
    upload = random() | {"head.bias": np.ones(2, np.float32), "y.lora_A": np.ones((3, 6), np.float32)}
    reference = random(seed=3)
    turned = align(upload, reference, "A")
    assert set(turned) == set(upload)
    assert turned["head.bias"] is upload["head.bias"]
    assert turned["y.lora_A"] is upload["y.lora_A"]
    assert align(upload, {}, "A")["x.lora_A"] is upload["x.lora_A"]
