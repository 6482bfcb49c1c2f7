"""Clients whose model answers but is not trained: a frozen base, or anything that has ``generate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedapp.core.checks import shown
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, Example, Sampling, Shapes


@dataclass(frozen=True)
class BlackBox:
    """Adds nothing: such a client votes with its answers and learns nothing.

    The base is a ``fedapp.models.Base``, or any object with ``generate(prompts) -> answers`` (a service, a
    model behind an interface), such as ``AnswerFile``.
    """

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> BlackBoxModel:
        """Take the base as it is."""
        return BlackBoxModel(base, train)


class BlackBoxModel:
    """Implements ``fedapp.core.model.AdaptedModel`` without a trainable part."""

    def __init__(self, base: Any, train: TrainConfig) -> None:
        """Note how to ask the base."""
        self.base = base
        self._trainer: Any = None
        if not callable(getattr(base, "generate", None)):
            from fedapp.adapters.training import Trainer

            self._trainer = Trainer(base, train, decayed=[])

    def parameters(self) -> Arrays:
        """None."""
        return {}

    def shapes(self) -> Shapes:
        """Nothing is trained."""
        return {}

    def load(self, parameters: Arrays) -> None:
        """Refuse anything.

        Raises:
            ValueError: If there is a parameter to load.
        """
        if parameters:
            raise ValueError(f"parameter {next(iter(parameters))!r}: a black box has no parameters")

    def reset(self) -> None:
        """There is nothing that could have changed."""

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Nothing is trained; the loss of the model as it is."""
        return self.loss(examples)

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss in nats per example; NaN where the base only answers."""
        return float(self._trainer.loss(examples)) if self._trainer else float("nan")

    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None) -> list[str]:
        """The base's own answers; one that is not ours to steer samples or not as it likes."""
        if self._trainer:
            return self._trainer.generate(prompts, sampling)
        return [str(answer) for answer in self.base.generate(list(prompts))]

    def export(self, folder: Path) -> None:
        """There is no adapter to write."""
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base is all there is."""
        yield

    def detach(self) -> None:
        """The base was left as it is."""


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
            raise ValueError(f"path={shown(path)} must be a file of JSON lines with prompt and answer")
        text = Path(path).expanduser().read_text(encoding="utf-8")
        self.answers: dict[str, str] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                prompt, answer = _row(line, f"path={path} line {number}")
                self.answers[prompt] = answer
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def set_num_threads(self, count: int) -> None:
        """There is nothing to compute with."""

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
