"""Stacking, mean with residual, decomposition: against dense sums of products."""

import numpy as np
import pytest

from fedapp.aggregation import low_rank as rules

LAYERS = {"layer.0.q": (6, 5), "layer.1.q": (7, 4)}
COUNTS = [3, 1, 4]


def drawn(ranks, seed=0):
    rng = np.random.default_rng(seed)
    uploads = []
    for rank in ranks:
        upload = {"head.weight": rng.normal(size=3).astype(np.float32)}
        for layer, (height, width) in LAYERS.items():
            upload[f"{layer}.lora_A"] = rng.normal(size=(rank, width)).astype(np.float32)
            upload[f"{layer}.lora_B"] = rng.normal(size=(height, rank)).astype(np.float32)
        uploads.append(upload)
    return uploads


def dense(uploads, counts=COUNTS):
    """sum_k w_k B_k A_k by a plain loop in fp64."""
    total = {}
    for layer in LAYERS:
        parts = [
            n / sum(counts) * u[f"{layer}.lora_B"].astype(float) @ u[f"{layer}.lora_A"].astype(float)
            for u, n in zip(uploads, counts, strict=True)
        ]
        total[f"{layer}.merged"] = sum(parts)
    return total


def close(found, expected, atol=1e-6):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol)


def test_a_stack_is_the_weighted_sum_of_all_products_whatever_their_ranks():
    uploads = drawn([1, 3, 2])
    stacked = rules.stack(uploads, COUNTS)
    assert {n: a.shape for n, a in stacked.items() if n.startswith("layer.0")} == {
        "layer.0.q.lora_A": (6, 5),
        "layer.0.q.lora_B": (6, 6),
    }
    close(rules.product([stacked]), dense(uploads))
    assert all(array.dtype == np.float32 for array in stacked.values())


def test_means_and_residual_add_up_to_the_sum_of_products():
    uploads = drawn([2, 2, 2])
    means, residual = rules.mean_and_residual(uploads, COUNTS)
    assert residual["layer.0.q.lora_A"].shape == (4, 5)  # (3 - 1) * 2
    weights = np.array(COUNTS) / 8
    close(
        {"a": means["layer.1.q.lora_A"]},
        {"a": sum(w * u["layer.1.q.lora_A"] for w, u in zip(weights, uploads, strict=True))},
    )
    close(rules.product([means, residual]), dense(uploads))
    assert np.abs(rules.product([residual])["layer.0.q.merged"]).max() > 0.1


def test_of_one_client_there_is_no_residual_and_the_mean_is_its_own():
    (upload,) = drawn([2])
    means, residual = rules.mean_and_residual([upload], [5])
    assert residual["layer.0.q.lora_A"].shape == (0, 5)
    assert residual["layer.0.q.lora_B"].shape == (6, 0)
    assert all((means[name] == upload[name]).all() for name in means)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_cut_decomposition_is_the_best_approximation_of_its_rank(rank):
    uploads = drawn([2, 3, 1])
    cut = rules.truncate(rules.decompose(uploads, COUNTS), dict.fromkeys(LAYERS, rank))
    best = {}
    for name, total in dense(uploads).items():
        u, s, vt = np.linalg.svd(total)
        best[name] = u[:, :rank] * s[:rank] @ vt[:rank]
        assert np.abs(best[name] - total).max() > 1e-2 or rank == 4  # 7 x 4 is exact at 4
    close(rules.product([cut]), best)


def test_a_whole_decomposition_is_exact_with_a_fixed_sign():
    uploads = drawn([2, 3, 1])
    whole = rules.decompose(uploads, COUNTS)
    close(rules.product([whole]), dense(uploads))
    a = whole["layer.0.q.lora_A"]
    np.testing.assert_allclose(a @ a.T, np.eye(5), atol=1e-6)
    assert (a[np.arange(5), np.abs(a).argmax(axis=1)] > 0).all()
    sizes = np.linalg.norm(whole["layer.0.q.lora_B"], axis=0)
    assert (np.diff(sizes) <= 0).all()


def test_the_order_of_the_clients_changes_no_product():
    uploads, order = drawn([2, 2, 2]), [2, 0, 1]
    turned, counts = [uploads[k] for k in order], [COUNTS[k] for k in order]
    for rule in (
        lambda u, n: [rules.stack(u, n)],
        lambda u, n: list(rules.mean_and_residual(u, n)),
        lambda u, n: [rules.truncate(rules.decompose(u, n), dict.fromkeys(LAYERS, 2))],
    ):
        close(rules.product(rule(turned, counts)), rules.product(rule(uploads, COUNTS)))


def test_fitting_to_another_rank_cuts_or_fills_up_with_rows_that_do_nothing_yet():
    factors, small, large = drawn([2, 1, 4])
    cut = rules.fit(factors, small)
    assert (cut["layer.0.q.lora_A"] == factors["layer.0.q.lora_A"][:1]).all()
    assert (cut["layer.0.q.lora_B"] == factors["layer.0.q.lora_B"][:, :1]).all()
    filled = rules.fit(factors, large)
    close(rules.product([filled]), rules.product([factors]))
    assert (filled["layer.0.q.lora_A"][2:] == large["layer.0.q.lora_A"][2:]).all()
    assert not filled["layer.0.q.lora_B"][:, 2:].any()


@pytest.mark.parametrize(
    ("uploads", "counts", "said"),
    [
        (drawn([2, 2]), [1, 0], r"num_examples=\[1, 0\] must be one or more positive numbers"),
        (drawn([2, 2]), [1], r"num_examples=\[1\] must be one number per upload: 2"),
        ([], [], r"num_examples=\[\] must be"),
        ([{"x.lora_A": np.zeros((1, 2))}], [1], r"upload 0: not all uploads have both factors of 'x.lora_A'"),
        ([drawn([1])[0], {}], [1, 1], r"upload 1: .*'layer.0.q.lora_A'"),
        (
            [{"x.lora_A": np.zeros((1, 2)), "x.lora_B": np.zeros((2, k))} for k in (1, 3)],
            [1, 1],
            r"factors of 'x' have shapes \[1, 2\] and \[2, 3\], but must be \[rank, 2\] and \[2, rank\]",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(uploads, counts, said):
    with pytest.raises(ValueError, match=said) as caught:
        rules.stack(uploads, counts)
    assert "\n" not in str(caught.value)


def test_means_of_different_ranks_are_refused():
    with pytest.raises(ValueError, match=r"'layer.0.q.lora_A' has shape \[3, 5\], upload 0 has \[2, 5\]"):
        rules.mean_and_residual(drawn([2, 3]), [1, 1])
