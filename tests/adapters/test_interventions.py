import pytest
import torch
from transformers.activations import ACT2FN

from fedapp.adapters.reft import interventions
from fedapp.adapters.reft.interventions import FORMS, Edits, Weights, edit, polar, qr, tangent

HIDDEN, RANK = 12, 3
CLASSES = {
    "loreft": "LoreftIntervention",
    "noreft": "NoreftIntervention",
    "direft": "NodireftIntervention",
    "direct": "DireftIntervention",
    "consreft": "ConsreftIntervention",
    "lobireft": "LobireftIntervention",
}


def drawn(name, groups=1):
    generator = torch.Generator().manual_seed(3)
    parts = [interventions.draw(FORMS[name], HIDDEN, RANK, generator) for _ in range(groups)]
    rotate, bias = torch.cat([p[0] for p in parts], 1), torch.cat([p[2] for p in parts])
    weight = torch.cat([p[1] for p in parts]) if FORMS[name].learns_weight else None
    return Weights(rotate, weight, bias)


def everywhere(count):
    return Edits(torch.arange(count), None)


@pytest.mark.parametrize("act", [None, "relu"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_class_of_pyreft(name, act):
    import pyreft

    if act and not FORMS[name].learns_weight:
        pytest.skip("no source to activate")
    weights = drawn(name)
    theirs = getattr(pyreft, CLASSES[name])(
        embed_dim=HIDDEN, low_rank_dimension=RANK, add_bias=False, dtype=torch.float32, act_fn=act
    )
    with torch.no_grad():
        if FORMS[name].orthonormal:
            theirs.rotate_layer.weight = weights.rotate
        else:
            theirs.proj_layer.weight.copy_(weights.rotate.t())
        if weights.weight is None:
            theirs.learned_source.copy_(weights.bias)
        else:
            theirs.learned_source.weight.copy_(weights.weight)
            theirs.learned_source.bias.copy_(weights.bias)
    hidden = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    ours = edit(hidden, weights, everywhere(10), FORMS[name], act=act and ACT2FN[act])
    torch.testing.assert_close(ours, theirs(hidden), atol=1e-6, rtol=0)
    assert (ours - hidden).abs().max() > 1e-2  # the edit does something


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", FORMS)
def test_the_written_out_gradient_is_that_of_autograd(name, groups):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 4, HIDDEN, generator=generator)
    weights = drawn(name, groups)
    own = None
    if groups == 2:
        own = torch.tensor(
            [[1.0] * RANK + [0.0] * RANK, [0.0] * RANK + [1.0] * RANK, [1.0] * RANK + [0.0] * RANK]
        )
    edits = Edits(torch.tensor([0, 3, 6]), own)
    target = torch.randn(2, 4, HIDDEN, generator=generator)
    keep = torch.randint(0, 2, (3, HIDDEN), generator=generator) / 0.5
    form = FORMS[name]

    def gradients(path):
        leaves = [
            t.clone().requires_grad_()
            for t in (hidden, weights.rotate, weights.weight, weights.bias)
            if t is not None
        ]
        inner = Weights(leaves[1], leaves[2] if len(leaves) == 4 else None, leaves[-1])
        output = path(leaves[0] * 1.0, inner)
        ((output - target) ** 2).sum().backward()
        return [output.detach(), *(leaf.grad for leaf in leaves)]

    def fused(h, w):
        return interventions._LinearEdit.apply(h, w.rotate, w.weight, w.bias, edits, form.subtracts, keep)

    def plain(h, w):
        return interventions._general_edit(h, w, edits, form, lambda x: x, keep)

    for ours, reference in zip(gradients(fused), gradients(plain), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def test_tokens_that_are_not_edited_keep_their_bits():
    hidden = torch.randn(2, 4, HIDDEN, generator=torch.Generator().manual_seed(2))
    edited = edit(hidden, drawn("loreft"), Edits(torch.tensor([1, 6]), None), FORMS["loreft"])
    changed = (edited != hidden).any(-1).flatten()
    assert changed.nonzero().flatten().tolist() == [1, 6]


def test_loreft_with_w_equal_to_r_and_no_bias_is_the_identity():
    rotate = qr(torch.randn(HIDDEN, RANK, generator=torch.Generator().manual_seed(0)))
    hidden = torch.randn(1, 3, HIDDEN)
    weights = Weights(rotate, rotate.t(), torch.zeros(RANK))
    torch.testing.assert_close(edit(hidden, weights, everywhere(3), FORMS["loreft"]), hidden)


def test_a_turn_of_r_w_and_b_together_changes_nothing():
    generator = torch.Generator().manual_seed(3)
    weights = drawn("loreft")
    turn = qr(torch.randn(RANK, RANK, generator=generator))
    assert (turn - torch.eye(RANK)).abs().max() > 0.1
    turned = Weights(weights.rotate @ turn.t(), turn @ weights.weight, turn @ weights.bias)
    hidden = torch.randn(2, 3, HIDDEN, generator=generator)
    ours, theirs = (edit(hidden, w, everywhere(6), FORMS["loreft"]) for w in (weights, turned))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - hidden).abs().max() > 1e-2


def test_a_bf16_state_is_edited_in_fp32_and_comes_back_in_bf16():
    hidden = torch.randn(1, 3, HIDDEN).bfloat16()
    weights = drawn("loreft")
    edited = edit(hidden, weights, everywhere(3), FORMS["loreft"])
    exact = edit(hidden.float(), weights, everywhere(3), FORMS["loreft"])
    assert edited.dtype == torch.bfloat16
    assert torch.equal(edited, exact.bfloat16())


@pytest.mark.parametrize("project", [polar, qr])
def test_a_projection_makes_columns_orthonormal_and_leaves_orthonormal_ones(project):
    generator = torch.Generator().manual_seed(0)
    rotate = project(torch.randn(4, 2, HIDDEN, RANK, generator=generator))
    torch.testing.assert_close(
        rotate.mT @ rotate, torch.eye(RANK).expand(4, 2, RANK, RANK), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(project(rotate), rotate, atol=1e-5, rtol=0)


def test_polar_gives_the_nearest_orthonormal_matrix():
    matrix = torch.randn(HIDDEN, RANK, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    nearest = (matrix - polar(matrix)).norm()
    for seed in range(20):
        noise = torch.randn(HIDDEN, RANK, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert (matrix - qr(polar(matrix) + 0.05 * noise)).norm() > nearest


def test_polar_survives_a_matrix_that_lost_its_rank():
    matrix = torch.zeros(2, HIDDEN, RANK)
    matrix[0, 0, 0] = 1.0
    result = polar(matrix)
    torch.testing.assert_close(result.mT @ result, torch.eye(RANK).expand(2, RANK, RANK), atol=1e-5, rtol=0)


def test_a_tangent_gradient_does_not_change_the_gram_matrix_to_first_order():
    rotate = qr(torch.randn(HIDDEN, RANK, generator=torch.Generator().manual_seed(7)))
    step = tangent(rotate, torch.randn(HIDDEN, RANK, generator=torch.Generator().manual_seed(8)))
    change = rotate.t() @ step + step.t() @ rotate
    torch.testing.assert_close(change, torch.zeros(RANK, RANK), atol=1e-5, rtol=0)
