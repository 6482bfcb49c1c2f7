"""Where a block's attention and MLP meet the residual stream, found by the block's structure."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedapp.models.structure import block_list

_TOLERANCE = 0.05
"""Largest share of a block's update that attention and MLP may leave unexplained, beside rounding."""

_TOKENS = 4
"""How many different tokens pass through the blocks, as the first one is unlike the others."""


@dataclass
class _Seen:
    """What passed through a block and its children during one forward pass."""

    entered: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    calls: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)


def residual_sites(model: Any) -> list[tuple[nn.Module, nn.Module]]:
    """For each block the modules whose outputs are added to the residual stream.

    Attention is the child with weight matrices whose ``forward`` takes an ``attention_mask``, the
    MLP the other child with weight matrices. Where a norm stands between such a module and the
    residual add (Gemma 2 and 3), the norm's output is what is added, so the norm is the site (ours):
    scaling its input would have no effect. One forward pass of a few tokens shows which modules these
    are; a model without values (device meta) cannot run, and its norms are not looked at.

    Args:
        model: A causal language model in eval mode.

    Returns:
        ``(attention, mlp)`` for each block, in order.

    Raises:
        ValueError: If blocks are built differently; the message says how.
    """
    _, blocks = block_list(model)
    parts = [_parts(block) for block in blocks]
    if model.device.type == "meta":
        return parts
    seen = [_Seen() for _ in blocks]
    handles = [handle for block, one in zip(blocks, seen, strict=True) for handle in _watch(block, one)]
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(_TOKENS, device=model.device)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    sites = []
    for number, (one, (attention, mlp)) in enumerate(zip(seen, parts, strict=True)):
        found = (_last_of_chain(one, attention), _last_of_chain(one, mlp))
        _check_sum(model, number, one, [output for _, output in found])
        sites.append((found[0][0], found[1][0]))
    return sites


def _parts(block: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The block's attention and its MLP."""
    attentions: list[nn.Module] = []
    others: list[nn.Module] = []
    for child in block.children():
        if any(value.dim() > 1 for value in child.parameters()):
            masked = "attention_mask" in inspect.signature(child.forward).parameters
            (attentions if masked else others).append(child)
    if len(attentions) != 1 or len(others) != 1:
        raise ValueError(
            f"a {type(block).__name__} has {len(attentions)} attention modules and {len(others)} other "
            "modules with weights, but context vectors need one attention and one MLP module per block"
        )
    return attentions[0], others[0]


def _watch(block: nn.Module, seen: _Seen) -> list[Any]:
    def of_block(_module: Any, args: Any, given: dict[str, Any], output: Any) -> None:
        seen.entered.append(_first(args, given))
        seen.left.append(_tensor(output))

    def of_child(module: nn.Module, args: Any, given: dict[str, Any], output: Any) -> None:
        seen.calls.append((module, _first(args, given), _tensor(output)))

    weighty = [child for child in block.children() if any(True for _ in child.parameters())]
    return [block.register_forward_hook(of_block, with_kwargs=True)] + [
        child.register_forward_hook(of_child, with_kwargs=True) for child in weighty
    ]


def _last_of_chain(seen: _Seen, start: nn.Module) -> tuple[nn.Module, Tensor]:
    """Follow a module's output through the norms that take it, and nothing else, as their input."""
    module = start
    output = next(output for called, _, output in seen.calls if called is start)
    for called, given, result in seen.calls:  # in the order of the calls
        if given is output:
            module, output = called, result
    return module, output


def _check_sum(model: Any, number: int, seen: _Seen, outputs: list[Tensor]) -> None:
    """The block must be input + attention + MLP, token by token, as far as its dtype can tell.

    A token whose stream is thousands of times its update (the first one of most language models) says
    little in half precision, and must not stand for the others.
    """
    rounding = torch.finfo(seen.left[0].dtype).eps
    entered, left, *added = (one.float() for one in (seen.entered[0], seen.left[0], *outputs))
    error = (left - entered - sum(added)).norm(dim=-1)
    stream = entered.norm(dim=-1) + left.norm(dim=-1)
    allowed = _TOLERANCE * (left - entered).norm(dim=-1) + max(rounding, 1e-3) * stream
    if not bool((error <= allowed).all()):
        raise ValueError(
            f"block {number} of {type(model).__name__} does not add the outputs of its attention and its "
            "MLP module to its input, so context vectors cannot be injected before the residual add"
        )


def _first(args: Any, given: dict[str, Any]) -> Tensor:
    return args[0] if args else given["hidden_states"]


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
