import numpy as np
import pytest

from fedapp.aggregation import joint_subspace


def factors(count, rank=3, rows=7, columns=5, seed=0):
    rng = np.random.default_rng(seed)
    draw = [(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))) for _ in range(count)]
    return [left for left, _ in draw], [right for _, right in draw]


def test_it_is_the_truncated_svd_of_the_weighted_mean():
    lefts, rights = factors(4)
    weights = [1.0, 5.0, 2.0, 2.0]
    mean = sum(w / 10 * left @ right for w, left, right in zip(weights, lefts, rights, strict=True))
    left, values, right = joint_subspace(lefts, rights, weights, 2)
    u, s, v = np.linalg.svd(mean)
    np.testing.assert_allclose(left * values @ right, u[:, :2] * s[:2] @ v[:2], atol=1e-6)
    np.testing.assert_allclose(values, s[:2], rtol=1e-6)
    np.testing.assert_allclose(left.T @ left, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(right @ right.T, np.eye(2), atol=1e-6)
    assert left.dtype == values.dtype == right.dtype == np.float32


def test_one_client_gets_its_own_subspace_back():
    lefts, rights = factors(1)
    left, values, right = joint_subspace(lefts, rights, [3.0], 3)
    np.testing.assert_allclose(left * values @ right, lefts[0] @ rights[0], atol=1e-5)


def test_factors_that_vanish_still_give_orthonormal_bases():
    left, values, right = joint_subspace([np.zeros((7, 3))], [np.eye(3, 5)], [1.0], 3)
    np.testing.assert_allclose(left.T @ left, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(right @ right.T, np.eye(3), atol=1e-6)
    assert not values.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 6}, "rank=6 must be within 1 and 5"),
        ({"weights": [0.0, 0.0]}, r"weights=\[0.0, 0.0\] must be one per client"),
        ({"rights": factors(2, rank=2)[1]}, "factors must be"),
        ({"lefts": [np.ones((7, 3)), np.ones((8, 3))]}, "factors must be"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    lefts, rights = factors(2)
    given = {"lefts": lefts, "rights": rights, "weights": [1.0, 1.0], "rank": 2, **change}
    with pytest.raises(ValueError, match=message):
        joint_subspace(**given)
