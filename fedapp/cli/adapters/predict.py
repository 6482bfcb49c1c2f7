"""``fedapp predict``: answers of a kept adapter to the rows of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from fedapp.cli.adapters.kept import Kept, attached
from fedapp.cli.adapters.prompts import read_examples
from fedapp.cli.output import require_place
from fedapp.core.files import write_atomically
from fedapp.core.model import ChoosingModel
from fedapp.core.types import Example

_AT_ONCE = 256  # rows between two signs of life


def predict(
    source: Path, file: Path, out: TextIO, to: Path | None = None, max_new_tokens: int | None = None
) -> None:
    """Answer each row by a line of JSON: ``row`` (from 0), ``answer`` and ``completion``.

    Args:
        source: The adapter's folder.
        file: JSON lines; see ``read_examples``.
        out: Where answers go, as they come.
        to: A file that they go to instead, whole or not at all.
        max_new_tokens: Longest generated answer in tokens; None: as in the run.

    Raises:
        ValueError: If the adapter or a row cannot be used, or the answers cannot be written.
    """
    if to is not None:
        require_place("--to", to, "answers.jsonl", read=file)
    with attached(source, max_new_tokens=max_new_tokens) as kept:
        examples = read_examples(file, kept.benchmark)
        lines = _lines(kept, examples)
        if to is not None:
            write_atomically(to, "".join(lines))
            return
        for line in lines:
            out.write(line)
        out.flush()


def _lines(kept: Kept, examples: Sequence[Example]) -> Iterator[str]:
    for start in range(0, len(examples), _AT_ONCE):
        some = examples[start : start + _AT_ONCE]
        for number, completion in enumerate(answers(kept, some), start=start):
            said = {"row": number, "answer": kept.benchmark.extract(completion), "completion": completion}
            yield json.dumps(said, ensure_ascii=False) + "\n"


def answers(kept: Kept, examples: Sequence[Example]) -> list[str]:
    """What the model says to each prompt: text, a label, or the option it prefers.

    Raises:
        ValueError: If it is to choose among options and cannot rate any.
    """
    if not kept.benchmark.has_options or not all(example.options for example in examples):
        return kept.model.generate([example.prompt for example in examples])
    if not isinstance(kept.model, ChoosingModel):
        raise ValueError("benchmark.scoring=loglikelihood: this adapter's model cannot rate options")
    rated = zip(examples, kept.model.rate_options(examples), strict=True)
    return [kept.benchmark.choose(example.options, ratings) for example, ratings in rated]
