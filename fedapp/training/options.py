"""Answers to choose from by likelihood, as rows of tokens: each option behind its example's prompt.

Source: how lm-evaluation-harness and lighteval score multiple choice: the log-likelihood of an option's own
tokens behind the prompt, the end of the sequence left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedapp.core.errors import RowError
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.models.base import Base
from fedapp.training.tokens import Encoded, Encoder


def option_rows(base: Base, config: TrainConfig, examples: Sequence[Example]) -> list[Encoded]:
    """A row for each option of each example, in order, without the end of the sequence.

    Prompts are cut as everywhere (``Encoder``). An option that does not fit is no text to compare: its end
    would be missing from the sum.

    Raises:
        RowError: If an option does not fit behind its prompt, or has no token.
        ValueError: If the base chooses by a classification head.
    """
    if base.head != "lm":
        raise ValueError("options are chosen by likelihood, which needs model.head=lm: a classifier has none")
    encoder = Encoder(base, config.max_length, config.max_new_tokens, config.template)
    asked = [Example(one.prompt, option) for one in examples for option in one.options]
    rows = []
    for row, one in zip(encoder.examples(asked), asked, strict=True):
        end = row.prompt_length + row.answer_length
        if end > len(row.ids):
            text = (
                f"an option of {row.answer_length} tokens does not fit behind its prompt of "
                f"{row.prompt_length} tokens: raise train.max_length={config.max_length}"
            )
            raise RowError(text, f"{text}; it is {one.target[:40]!r}")
        if not row.answer_length:
            raise RowError("an option is empty, so it has no likelihood")
        rows.append(replace(row, ids=row.ids[:end]))
    return rows
