"""The frozen base model as it stands: asked at once, or with demonstrations in front of the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedapp.adapters.base import claim, release
from fedapp.adapters.demonstrations import check_demonstration, write_demonstration
from fedapp.core.checks import require_int
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Decoding, Example, Shapes
from fedapp.models.base import Base
from fedapp.training.first_token import FrozenTrainer, require_language_model
from fedapp.training.tokens import Encoded

_NAME = "demonstrations"
_SEPARATOR = "\0"  # stands in no text that a tokenizer is given


@dataclass(frozen=True)
class ZeroShot:
    """Nothing is trained: the base model answers each prompt by itself."""

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> Prompted:
        """Wrap a language model.

        Raises:
            ValueError: If the base is no language model.
        """
        require_language_model(base, "adapter=zero_shot")
        return Prompted(FewShot(shots=0), base, train)


@dataclass(frozen=True)
class FewShot:
    """In-context learning: the client's own training examples in front of every prompt.

    Attributes:
        shots: Demonstrations of each label (of all together where examples have no label); as many
            as the context has room for are used.
        context_length: Longest prompt with its demonstrations in tokens; 0 means the model's limit.
        demonstration: How an example is written as a demonstration. The default is I2CL's.
    """

    shots: int = 5
    context_length: int = 0
    demonstration: str = "{prompt} {target}\n"

    def __post_init__(self) -> None:
        require_int("shots", self.shots, at_least=0)
        require_int("context_length", self.context_length, at_least=0)
        check_demonstration(self.demonstration)

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> Prompted:
        """Wrap a language model; the demonstrations are drawn from the client's random numbers.

        Raises:
            ValueError: If the base is no language model, or no prompt fits its context.
        """
        require_language_model(base, "adapter=few_shot")
        return Prompted(self, base, replace(train, max_length=self._room(base, train)))

    def _room(self, base: Base, train: TrainConfig) -> int:
        if self.context_length:
            return self.context_length
        limit = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
        # A model without a limit of its own gets four times what an example may have (ours).
        return int(limit or 4 * train.max_length)


class Prompted:
    """A frozen base model behind prompts; implements ``fedapp.core.model.AdaptedModel``.

    What ``train`` chooses is its only parameter: ``demonstrations``, UTF-8 text as uint8, so that a
    client's memory and its kept adapter hold it. No method here sends it anywhere.
    """

    def __init__(self, adapter: FewShot, base: Base, train: TrainConfig) -> None:
        self.adapter, self.base = adapter, base
        self.trainer = FrozenTrainer(base, train)
        claim(base, "prompting")
        self._chosen: list[str] = []
        self._active = True

    def parameters(self) -> Arrays:
        """The demonstrations in use as text; nothing where there are none."""
        if not self._chosen:
            return {}
        text = _SEPARATOR.join(self._chosen).encode("utf-8", "surrogatepass")
        return {_NAME: np.frombuffer(text, np.uint8).copy()}

    def frozen_shapes(self) -> Shapes:
        """Nothing is held beside what is trained."""
        return {}

    def shapes(self) -> Shapes:
        """Nothing is trained."""
        return {}

    def load(self, parameters: Arrays) -> None:
        """Take over demonstrations.

        Raises:
            ValueError: If there is another name, or no UTF-8 text under it.
        """
        for name, value in parameters.items():
            if name != _NAME or value.dtype != np.uint8:
                raise ValueError(
                    f"unknown parameter {name!r} of {value.dtype}: this adapter has {_NAME}, uint8"
                )
            self._chosen = value.tobytes().decode("utf-8", "surrogatepass").split(_SEPARATOR)

    def reset(self) -> None:
        """No demonstrations."""
        self._chosen = []

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Choose demonstrations; nothing is trained, so no row is scored and there is no loss (NaN).

        Raises:
            ClientFailure: If there are no examples.
        """
        if not examples:
            raise ClientFailure("the client has no training examples")
        chosen = _balanced(examples, self.adapter.shots, rng)
        self._chosen = [write_demonstration(self.adapter.demonstration, examples[i]) for i in chosen]
        return float("nan")

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss of the answers' first tokens in nats per example."""
        return self.trainer.loss(self._whole(examples))

    def rate_options(self, examples: Sequence[Example]) -> list[list[float]]:
        """Log-likelihoods of each example's options, behind the demonstrations."""
        return self.trainer.rate_options(self._whole(examples))

    def rate_rows(self, rows: Sequence[Encoded]) -> list[tuple[float, bool]]:
        """Of tokens behind prompts of tokens; see ``Trainer.rate``.

        Raises:
            ValueError: If there are demonstrations, which are text.
        """
        if self._chosen and self._active:
            raise ValueError("a prompt of tokens takes no demonstrations: ask by text (fedapp predict)")
        return self.trainer.rate(rows)

    def _whole(self, examples: Sequence[Example]) -> list[Example]:
        prompts = self._behind_demonstrations([example.prompt for example in examples])
        return [replace(e, prompt=p) for e, p in zip(examples, prompts, strict=True)]

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """Answer each prompt, behind the demonstrations."""
        return self.trainer.generate(self._behind_demonstrations(prompts), decoding)

    def export(self, folder: Path) -> None:
        """Write the demonstrations as text."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "demonstrations.txt").write_text("".join(self._chosen), encoding="utf-8", errors="replace")

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While open, prompts stand alone."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    def detach(self) -> None:
        """Nothing was changed."""
        release(self.base)

    def _behind_demonstrations(self, prompts: Sequence[str]) -> list[str]:
        """Prompts with as many whole demonstrations as fit; the first ones give way."""
        if not self._chosen or not self._active:
            return list(prompts)
        encoder = self.trainer.encoder
        lengths = [len(ids) for ids in encoder.token_ids(self._chosen)]
        # One token's grace for each seam: text cut in two may tokenise into fewer pieces than whole.
        ends = np.cumsum([0, *(length + 1 for length in reversed(lengths))])
        result = []
        for prompt, ids in zip(prompts, encoder.token_ids(prompts), strict=True):
            count = int(np.searchsorted(ends, encoder.max_words - len(ids), side="right")) - 1
            result.append("".join(self._chosen[len(self._chosen) - max(count, 0) :]) + prompt)
        return result


def _balanced(examples: Sequence[Example], shots: int, rng: np.random.Generator) -> list[int]:
    """Row numbers: ``shots`` of each label that the client has, in a random order."""
    order = rng.permutation(len(examples)).tolist()
    taken: dict[object, int] = {}
    chosen = []
    for index in order:
        label = examples[index].label
        if taken.get(label, 0) < shots:
            taken[label] = taken.get(label, 0) + 1
            chosen.append(index)
    return chosen
