"""Gradient checkpointing: a block's inner activations are computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fedapp.models.structure import block_list


def checkpointable_blocks(model: Any) -> tuple[nn.Module, ...]:
    """The model's blocks, which transformers can checkpoint.

    Raises:
        ValueError: If transformers has no checkpointing for this model.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = tuple(block_list(model)[1])
    if not all(isinstance(block, GradientCheckpointingLayer) for block in blocks):
        raise ValueError(
            f"train.gradient_checkpointing=true: transformers cannot checkpoint the blocks of "
            f"{type(model).__name__}; set it to false"
        )
    return blocks


@contextmanager
def checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Checkpoint these blocks inside the ``with`` block, which holds forward and backward pass.

    Transformers checkpoints a block only in training mode, but a frozen base runs in eval mode.
    So the block's own flag, not that of its parts, is up where transformers looks at it and down
    again while the block computes: a block that drops elements itself (OPT's) stays quiet.
    """
    for block in blocks:
        block.gradient_checkpointing = True  # type: ignore[assignment]
        block._gradient_checkpointing_func = partial(_call, block)  # type: ignore[assignment]
        block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False
            del block.gradient_checkpointing, block._gradient_checkpointing_func


def _call(block: nn.Module, run: Callable[..., Any], *args: Any) -> Any:
    def in_eval_mode(*inner: Any) -> Any:
        block.training = False
        try:
            return run(*inner)
        finally:  # torch leaves by an exception once it has recomputed what it needs
            block.training = True

    return checkpoint(in_eval_mode, *args, use_reentrant=False)
