"""Where interventions meet the model: hooks on the blocks, active for one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedapp.adapters.reft.interventions import Edits, Form, Weights, edit
from fedapp.adapters.reft.positions import Positions
from fedapp.models.structure import block_list
from fedapp.training.tokens import Batch


@dataclass(frozen=True)
class _Armed:
    """What the hooks need while one batch passes through the model."""

    width: int
    num_rows: int
    edits: Edits
    weights: Sequence[Weights]
    dropout: float


class BlockHooks:
    """Edits the outputs of chosen blocks.

    Args:
        model: The base model; its blocks get forward hooks, which do nothing until armed.
        layers: Block numbers.
        positions: Which prompt tokens are edited.
        num_groups: 2 where first and last tokens have parameters of their own, else 1.
        rank: Columns per group.
        form: Member of the family of interventions.
        act: Activation of the source; None is linear.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[int],
        positions: Positions,
        num_groups: int,
        rank: int,
        form: Form,
        act: Any,
    ) -> None:
        self._positions, self._num_groups, self._rank = positions, num_groups, rank
        self._form, self._act = form, act
        self._armed: _Armed | None = None
        blocks = block_list(model)[1]
        self._handles = [
            blocks[layer].register_forward_hook(self._hook(slot)) for slot, layer in enumerate(layers)
        ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def armed(self, batch: Batch, weights: Sequence[Weights], dropout: float) -> Iterator[None]:
        """Let the interventions act on a batch inside the ``with`` block.

        Args:
            batch: Its prompt lengths and offsets decide which tokens are edited.
            weights: One per hooked block.
            dropout: Probability of dropping an element of an edited state.
        """
        width = batch.input_ids.shape[1]
        # A chat template's own text in front of the user's words counts as no first token.
        lengths, starts = batch.prompt_lengths - batch.num_before, batch.offsets + batch.num_before
        rows, is_last = self._positions.locate(lengths, starts, width)
        device = batch.input_ids.device
        own = None
        if self._num_groups > 1:
            # A token owns the columns of its group: the first `rank` ones, or the last.
            of_last = np.repeat(np.array([False, True]), self._rank)
            own = torch.from_numpy((of_last == is_last[:, None]).astype(np.float32)).to(device)
        edits = Edits(torch.from_numpy(rows).to(device), own)
        self._armed = _Armed(width, len(batch.prompt_lengths), edits, weights, dropout)
        try:
            yield
        finally:
            self._armed = None

    def _hook(self, slot: int) -> Any:
        def intervene(_module: Any, _args: Any, output: Any) -> Any:
            armed = self._armed
            hidden = output[0] if isinstance(output, tuple) else output
            # Once the prompt is in the cache, a generation step sees one token: none to edit.
            if armed is None or hidden.shape[1] != armed.width or len(armed.edits.rows) == 0:
                return None
            edits = armed.edits
            if hidden.shape[0] != armed.num_rows:
                edits = _repeated(edits, armed, hidden.shape[0])
            edited = edit(
                hidden, armed.weights[slot], edits, self._form, act=self._act, dropout=armed.dropout
            )
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return intervene


def _repeated(edits: Edits, armed: _Armed, num_rows: int) -> Edits:
    """The same edits for a batch whose rows beam search repeated, each row's copies together."""
    copies = num_rows // armed.num_rows
    row, column = edits.rows // armed.width, edits.rows % armed.width
    rows = (row * copies)[:, None] + torch.arange(copies, device=row.device)
    own = None if edits.own is None else edits.own.repeat_interleave(copies, 0)
    return Edits((rows * armed.width + column[:, None]).flatten(), own)
