"""What a rule is that combines several clients' uploads into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from fedapp.core.types import Arrays


@runtime_checkable
class Rule(Protocol):
    """Combines uploads; holds settings only.

    To write one, these three members will do; it need not be a linear combination. A rule whose
    results are linear combinations of the uploads extends ``LinearRule`` instead.
    """

    @property
    def weighting(self) -> str:
        """``uniform`` (every client counts the same) or ``examples`` (by its number of examples)."""

    def combine(self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None) -> Arrays:
        """Combine all uploads into one set of named fp32 arrays of their shapes.

        Args:
            arrays: At least one upload; names and shapes agree.
            weights: One non-negative number per upload; unused when weighting is ``uniform``.

        Raises:
            ValueError: If weights are missing, negative or all 0, or no upload was given.
            UploadError: If uploads disagree or hold values that are not finite.
        """

    def leave_one_out(
        self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None
    ) -> Iterable[Arrays]:
        """For every upload combine all the others, in their order; arguments and errors as in ``combine``.

        An only upload gets an empty dictionary. A list will do; what is made while it is asked for takes
        less memory, as the server keeps each on disk before it asks for the next.
        """


def leave_one_out(
    rule: Rule, arrays: Sequence[Arrays], weights: Sequence[float] | None = None
) -> list[Arrays]:
    """For every upload combine all the others, one after the other, by any rule.

    Args:
        rule: What combines.
        arrays: Uploads of named arrays; names and shapes agree.
        weights: As in ``Rule.combine``.

    Returns:
        One combination per upload; empty dictionaries where there is one upload.

    Raises:
        ValueError: As ``Rule.combine``.
        UploadError: As ``Rule.combine``; its index counts the others alone.
    """
    if len(arrays) < 2:
        return [{} for _ in arrays]
    combined = []
    for left_out in range(len(arrays)):
        others = [upload for index, upload in enumerate(arrays) if index != left_out]
        rest = None if weights is None else [w for i, w in enumerate(weights) if i != left_out]
        combined.append(rule.combine(others, rest))
    return combined
