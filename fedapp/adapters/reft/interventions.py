"""The maths of ReFT: what an intervention adds to a hidden state, and how R stays orthonormal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """One member of the family h' = h + R (act(W h + b) - R^T h).

    Attributes:
        learns_weight: Whether W is there; without it the source is b alone.
        subtracts: Whether R^T h is subtracted.
        orthonormal: Whether the columns of R are kept orthonormal.

    Source: ReFT, https://arxiv.org/abs/2404.03592, eq. 2, eq. 3 and appendix E; pyreft 0.1.0.
    """

    learns_weight: bool
    subtracts: bool
    orthonormal: bool


FORMS = {
    "loreft": Form(learns_weight=True, subtracts=True, orthonormal=True),
    "noreft": Form(learns_weight=True, subtracts=True, orthonormal=False),
    "direft": Form(learns_weight=True, subtracts=False, orthonormal=False),
    "direct": Form(learns_weight=True, subtracts=False, orthonormal=True),
    "consreft": Form(learns_weight=False, subtracts=True, orthonormal=True),
    "lobireft": Form(learns_weight=False, subtracts=False, orthonormal=True),
}
"""``direft`` is the paper's (pyreft's NodireftIntervention), ``direct`` is pyreft's DireftIntervention."""


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer, its groups side by side (k = groups * rank).

    Attributes:
        rotate: R of all groups, [hidden, k].
        weight: W of all groups, [k, hidden]; None where the form has none.
        bias: b of all groups, [k].
    """

    rotate: Tensor
    weight: Tensor | None
    bias: Tensor


@dataclass(frozen=True)
class Edits:
    """The tokens of a batch that are edited.

    Attributes:
        rows: Index into the flattened [batch * width] tokens, [num_edited].
        own: 1 where a column of the low-rank space belongs to the token's group, else 0,
            [num_edited, k]; None where there is one group only.
    """

    rows: Tensor
    own: Tensor | None


class _LinearEdit(torch.autograd.Function):
    """h' = h + R (W h + b - R^T h) at the edited tokens, with its gradient written out.

    As W h - R^T h = (W - R^T) h, one product per direction serves all groups; everything that is
    not an edited token is passed through.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        rotate: Tensor,
        weight: Tensor | None,
        bias: Tensor,
        edits: Edits,
        subtracts: bool,
        keep: Tensor | None,
    ) -> Tensor:
        width = hidden.shape[-1]
        output = hidden.clone(memory_format=torch.contiguous_format)
        tokens = output.view(-1, width)
        base = tokens.index_select(0, edits.rows).float()
        source = _source_map(rotate, weight, subtracts)
        low = bias.expand(len(base), -1) if source is None else torch.addmm(bias, base, source)
        if edits.own is not None:
            low = low * edits.own
        edited = torch.addmm(base, low, rotate.t())
        if keep is not None:
            edited = edited * keep
        tokens.index_copy_(0, edits.rows, edited.to(hidden.dtype))
        ctx.save_for_backward(base, low, rotate, source, keep)
        ctx.edits, ctx.subtracts, ctx.has_weight = edits, subtracts, weight is not None
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        base, low, rotate, source, keep = ctx.saved_tensors
        rows, own = ctx.edits.rows, ctx.edits.own
        tokens = grad_output.reshape(-1, grad_output.shape[-1])
        grad = tokens.index_select(0, rows).float()
        if keep is not None:
            grad = grad * keep
        grad_low = grad @ rotate
        if own is not None:
            grad_low = grad_low * own
        grad_rotate = grad.t() @ low
        grad_weight = None
        if source is not None:
            grad_source = base.t() @ grad_low
            if ctx.subtracts:
                grad_rotate -= grad_source
            if ctx.has_weight:
                grad_weight = grad_source.t()
        grad_hidden = None
        if ctx.needs_input_grad[0]:  # not at the lowest layer: nothing below it is trained
            if source is not None:
                grad = torch.addmm(grad, grad_low, source.t())
            grad_hidden = grad_output.clone(memory_format=torch.contiguous_format)
            grad_hidden.view(tokens.shape).index_copy_(0, rows, grad.to(grad_hidden.dtype))
        return grad_hidden, grad_rotate, grad_weight, grad_low.sum(0), None, None, None


def _source_map(rotate: Tensor, weight: Tensor | None, subtracts: bool) -> Tensor | None:
    """The [hidden, k] map from a hidden state to the low-rank space; None if there is none."""
    if weight is None:
        return -rotate if subtracts else None
    return weight.t() - rotate if subtracts else weight.t()


def edit(
    hidden: Tensor, weights: Weights, edits: Edits, form: Form, *, act: Any = None, dropout: float = 0.0
) -> Tensor:
    """Apply an intervention to the edited tokens of a block's output.

    Args:
        hidden: [batch, width, hidden], any float dtype; the intervention itself runs in fp32.
        weights: fp32 parameters.
        edits: Which tokens, and which group's parameters each of them uses.
        form: Member of the family.
        act: Activation of the source W h + b; None is linear.
        dropout: Probability with which an element of an edited h' is dropped (pyreft drops from
            the whole output, not from the edit); 0 outside training.

    Returns:
        A tensor like hidden; tokens that are not edited keep their bits.
    """
    keep = None
    if dropout:
        shape = (len(edits.rows), hidden.shape[-1])
        keep = torch.empty(shape, device=hidden.device).bernoulli_(1 - dropout).div_(1 - dropout)
    if act is None:
        result: Tensor = _LinearEdit.apply(  # type: ignore[no-untyped-call]
            hidden, weights.rotate, weights.weight, weights.bias, edits, form.subtracts, keep
        )
        return result
    return _general_edit(hidden, weights, edits, form, act, keep)


def _general_edit(
    hidden: Tensor, weights: Weights, edits: Edits, form: Form, act: Any, keep: Tensor | None
) -> Tensor:
    """The same by autograd, for sources that are not linear."""
    tokens = hidden.reshape(-1, hidden.shape[-1])
    base = tokens.index_select(0, edits.rows).float()
    low = weights.bias.expand(len(base), -1)
    if weights.weight is not None:
        low = act(torch.addmm(weights.bias, base, weights.weight.t()))
    if form.subtracts:
        low = low - base @ weights.rotate
    if edits.own is not None:
        low = low * edits.own
    edited = torch.addmm(base, low, weights.rotate.t())
    if keep is not None:
        edited = edited * keep
    return tokens.index_copy(0, edits.rows, edited.to(hidden.dtype)).view_as(hidden)


def polar(rotate: Tensor) -> Tensor:
    """The nearest matrices with orthonormal columns, by way of the small Gram matrix.

    Args:
        rotate: [..., hidden, rank] with rank <= hidden.

    Returns:
        R (R^T R)^(-1/2); where R lost rank, the factor U V^T of its singular vectors.

    Raises:
        torch.linalg.LinAlgError: If a value is not finite, or too large to be squared in fp32.
    """
    values, vectors = torch.linalg.eigh(rotate.mT @ rotate)
    # The Gram matrix squares the condition number; below this its inverse root is no longer exact.
    if bool((values[..., 0] < 1e-3 * values[..., -1].clamp(min=1e-3)).any()):
        left, _, right = torch.linalg.svd(rotate.double(), full_matrices=False)
        return (left @ right).to(rotate.dtype)
    return rotate @ ((vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT)


def qr(rotate: Tensor) -> Tensor:
    """The orthonormal factor of the QR decomposition with a positive diagonal.

    Args:
        rotate: [..., hidden, rank] with rank <= hidden.
    """
    factor, upper = torch.linalg.qr(rotate)
    signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return factor * signs.unsqueeze(-2)


PROJECTIONS = {"polar": polar, "qr": qr}


def tangent(rotate: Tensor, grad: Tensor) -> Tensor:
    """The part of a gradient that moves along the orthonormal matrices.

    Without the rest, clipping and Adam's statistics see only what the projection after the step
    leaves standing.

    Args:
        rotate: [..., hidden, rank], orthonormal columns.
        grad: Gradient of the loss by rotate, same shape.
    """
    inner = rotate.mT @ grad
    return grad - rotate @ (0.5 * (inner + inner.mT))


def draw(form: Form, hidden: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw R, W and b of one intervention as pyreft does (torch's Linear defaults).

    Returns:
        rotate [hidden, rank], weight [rank, hidden] (empty without W), bias [rank].
    """
    bound = 1 / math.sqrt(hidden)
    if form.orthonormal:
        rotate = qr(torch.randn(hidden, rank, generator=generator))
    else:
        rotate = torch.empty(hidden, rank).uniform_(-bound, bound, generator=generator)
    if not form.learns_weight:
        return rotate, torch.empty(0, hidden), torch.rand(rank, generator=generator)
    weight = torch.empty(rank, hidden).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(rank).uniform_(-bound, bound, generator=generator)
    return rotate, weight, bias
