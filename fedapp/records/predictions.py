"""What a client's final model said, row by row, in a file on the client's own machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.core.files import write_atomically
from fedapp.core.types import ClientFailure

FILE = "predictions.jsonl"


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one of a client's rows.

    Attributes:
        split: ``validation`` or ``test``.
        row: Number among the client's rows of that split, from 0.
        prompt: What the model read; only its id is kept.
        completion: What the model said.
        answer: What the benchmark reads in it.
        target: What would be right.
    """

    split: str
    row: int
    prompt: str
    completion: str
    answer: str
    target: str

    def to_json(self) -> dict[str, Any]:
        """As a line of the file holds it."""
        return {
            "split": self.split,
            "row": self.row,
            "prompt-id": prompt_id(self.prompt),
            "answer": self.answer,
            "target": self.target,
            "completion": self.completion,
        }


def prompt_id(prompt: str) -> str:
    """The same for the same prompt, on every machine: 16 hex digits of its SHA-256."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_predictions(folder: Path, predictions: Sequence[Prediction]) -> None:
    """Write ``predictions.jsonl``, whole or not at all.

    Raises:
        ClientFailure: If it cannot be written; the reason names no path, as it leaves the party.
    """
    text = "".join(json.dumps(one.to_json()) + "\n" for one in predictions)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, text)
    except OSError as error:
        raise ClientFailure(
            f"save_predictions=true, but {FILE} cannot be written: {error.strerror}"
        ) from None
