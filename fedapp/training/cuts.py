"""What the length limits cost, said on the party's own log: counts, never a word of a row."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fedapp.training.tokens import Encoded, Encoder

_log = logging.getLogger(__name__)


class CutLog:
    """Warns of prompts and answers that are cut; each text once.

    Args:
        encoder: What cuts them.
        head: The base's: ``lm`` or ``classification``.
        max_new_tokens: Longest answer in evaluation in tokens; 0: a label is chosen, nothing is generated.
    """

    def __init__(self, encoder: Encoder, head: str, max_new_tokens: int) -> None:
        self._encoder, self._head, self._max_new_tokens = encoder, head, max_new_tokens
        self._said: set[str] = set()

    def examples(self, rows: Sequence[Encoded]) -> None:
        """Look at prompts with their answers."""
        self.prompts(rows)
        room, longest = self._encoder.max_length, self._max_new_tokens
        self._warn(
            sum(row.answer_cut for row in rows),
            len(rows),
            f"answers do not fit behind their prompts in {room} tokens: they lose their end, and the model "
            "does not learn where they end (train.max_length)",
        )
        self._warn(
            sum(row.answer_length > longest > 0 for row in rows),
            len(rows),
            f"answers have more than {longest} tokens, at which evaluation stops: it never sees them whole "
            "(train.max_new_tokens)",
        )

    def prompts(self, rows: Sequence[Encoded]) -> None:
        """Look at prompts alone."""
        room, most = self._encoder.max_length, self._encoder.max_prompt
        cut = sum(row.prompt_cut for row in rows)
        if self._head == "classification":
            text = f"texts lose their end: they have more than {room} tokens (train.max_length)"
        else:
            text = (
                f"prompts lose their start: they have more than {most} tokens ({room} in all, by "
                f"train.max_length or the model, less train.max_new_tokens={room - most} for the answer)"
            )
        self._warn(cut, len(rows), text)

    def _warn(self, count: int, total: int, what: str) -> None:
        text = f"{count} of {total} {what}"
        if count and text not in self._said:
            self._said.add(text)
            _log.warning("%s", text)
