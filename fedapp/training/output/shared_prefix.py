"""Prompts that begin alike, as behind the same demonstrations: what they share passes the model once."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from fedapp.training.output.head import OutputHead

LEAST = 64
"""Tokens that a batch must share before its prefix is kept; ours."""


class SharedPrefixHead(OutputHead):
    """An ``OutputHead`` that keeps keys and values of what the rows of a batch begin with.

    It does so in passes without gradients. The logits are those of whole passes but for the order of sums. A
    model that keeps anything else of what it has read (a state) makes whole passes.

    Args:
        model: A causal language model of transformers, whose weights do not change while this is used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._prefix = torch.empty(0, dtype=torch.long)
        self._kept: Any = None
        self._able = "past_key_values" in inspect.signature(model.forward).parameters

    def _run(self, ids: Tensor, mask: Tensor, places: Tensor, past: Any = None) -> Tensor:
        width = ids.shape[1]
        whole = torch.is_grad_enabled() or not self._able
        shared = 0 if whole else _shared(ids, mask, int((places % width).min()))
        count = self._keep(ids[0, :shared], len(ids)) if shared >= LEAST else 0
        if not count:
            return super()._run(ids, mask, places)
        past = deepcopy(self._kept)
        past.batch_repeat_interleave(len(ids))
        moved = places // width * (width - count) + places % width - count
        return super()._run(ids[:, count:], mask, moved, past)

    def _keep(self, prefix: Tensor, rows: int) -> int:
        """See to it that as much as possible of a prefix, [length], is kept; how many of its tokens are."""
        known = _common(self._prefix.to(prefix.device), prefix)
        if known >= LEAST and (2 * known >= len(prefix) or rows == 1):
            if known < len(self._prefix):
                self._kept.crop(known - len(self._prefix))
                self._prefix = self._prefix[:known]
            return known
        if rows == 1:  # nobody to share it with
            return 0
        self._prefix, self._kept = prefix.clone(), self._read(prefix[None])
        self._able = self._kept is not None
        return len(prefix) if self._able else 0

    def _read(self, prefix: Tensor) -> Any:
        """The keys and values of a prefix, [1, length]; None where the model keeps something else."""
        from transformers import DynamicCache

        place = prefix.new_tensor([prefix.shape[1] - 1])
        past = DynamicCache()
        super()._run(prefix, torch.ones_like(prefix), place, past)
        whole = all(type(layer).__name__ == "DynamicLayer" for layer in past.layers)
        return past if past.layers and whole and past.get_seq_length() == prefix.shape[1] else None


def _shared(ids: Tensor, mask: Tensor, most: int) -> int:
    """Leading tokens that all rows have, at most so many."""
    alike = (ids == ids[:1]).all(0) & mask.bool().all(0)
    return min(int(alike.int().cumprod(0).sum()), most)


def _common(one: Tensor, other: Tensor) -> int:
    """Leading tokens that two rows have in common."""
    length = min(len(one), len(other))
    return int((one[:length] == other[:length]).int().cumprod(0).sum())
