"""Which tokens of a prompt an intervention edits."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PREFIX, SUFFIX, TIED = "prefix", "suffix", "tied"


@dataclass(frozen=True)
class Positions:
    """The first ``first`` and the last ``last`` tokens of a prompt.

    A prompt of n tokens has at most n // 2 of each, so the two never meet; what a short prompt
    lacks is simply not edited. Tokens of the answer are never edited.

    Source: pyreft 0.1.0, ``get_intervention_locations`` (its padded positions point at a masked
    token, which changes nothing that is read).
    """

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Positions:
        """Read ``f4+l4``, ``f3`` or ``l2``.

        Raises:
            ValueError: If the text has another form or names no position.
        """
        match = re.fullmatch(r"(?:f(\d+))?(?:(?(1)\+)l(\d+))?", str(text))
        first, last = (int(part or 0) for part in match.groups()) if match else (0, 0)
        if first + last == 0:
            raise ValueError(f"positions={text!r} must look like 'f4+l4', 'f3' or 'l2'")
        return cls(first, last)

    def groups(self, tied: bool) -> tuple[str, ...]:
        """Names of the interventions of one layer, one parameter set each."""
        if tied:
            return (TIED,)
        return tuple(name for name, count in ((PREFIX, self.first), (SUFFIX, self.last)) if count)

    def locate(
        self, lengths: npt.ArrayLike, offsets: npt.ArrayLike, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the edited tokens of a batch.

        Args:
            lengths: Prompt length of each row in tokens, padding not counted.
            offsets: Padding tokens before each row's prompt.
            width: Tokens per row of the batch, padding and answer included.

        Returns:
            Index of each edited token in the flattened [rows * width] batch, and whether it
            belongs to the last tokens of its prompt (bool); both [num_edited].
        """
        length = np.asarray(lengths, dtype=np.int64)[:, None]
        start = np.asarray(offsets, dtype=np.int64)[:, None] + width * np.arange(len(length))[:, None]
        half = length // 2
        head = np.arange(self.first)[None, :]
        tail = np.arange(self.last)[None, :]
        count = np.minimum(half, self.last)
        first = (start + head)[head < np.minimum(half, self.first)]
        last = (start + length - count + tail)[tail < count]
        is_last = np.zeros(len(first) + len(last), dtype=bool)
        is_last[len(first) :] = True
        return np.concatenate([first, last]), is_last
