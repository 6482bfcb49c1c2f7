"""A base that is no model: answers read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedapp.core.checks import show_value


class AnswerFile:
    """A base of which only answers are known: JSON lines ``{"prompt": …, "answer": …}``.

    They may come from a model that nobody here can run. A prompt that is not in the file is not answered.
    """

    def __init__(self, path: str | None, labels: Sequence[str] = ()) -> None:
        """Read the file.

        Args:
            path: The file.
            labels: Not used; every base is told the benchmark's labels.

        Raises:
            ValueError: If it cannot be read, or a line is not of this form.
        """
        if not path or not Path(path).expanduser().is_file():
            raise ValueError(f"path={show_value(path)} must be a file of JSON lines with prompt and answer")
        text = Path(path).expanduser().read_text(encoding="utf-8")
        self.answers: dict[str, str] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                prompt, answer = _row(line, f"path={path} line {number}")
                self.answers[prompt] = answer
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def set_num_threads(self, count: int) -> None:
        """There is nothing to compute with."""

    def with_labels(self, labels: Sequence[str]) -> AnswerFile:
        """The answers are what they are, whatever the labels."""
        return self

    def num_frozen(self) -> None:
        """Unknown: whoever gave the answers is not here."""

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """The answers as they stand in the file; empty where there is none."""
        return [self.answers.get(prompt, "") for prompt in prompts]


def _row(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        prompt, answer = row["prompt"], row["answer"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{where} must be an object with prompt and answer") from None
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise ValueError(f"{where} must give prompt and answer as texts")
    return prompt, answer
