"""The public prompts that all clients answer and the server forms a consensus on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedapp.core.types import Example


@dataclass(frozen=True)
class PublicSet:
    """A benchmark's public prompts, the same on the server and on every client.

    A prompt's id is its position, as text (``"17"``). Targets are references to report agreement with;
    they are neither trained on nor sent.

    Attributes:
        examples: The prompts.
        labels: The benchmark's labels in order; empty where answers are free text.
        benchmark: Whose prompts they are: knows how to extract and to score an answer.
    """

    examples: tuple[Example, ...]
    labels: tuple[str, ...] = ()
    benchmark: Any = None

    @classmethod
    def of(cls, benchmark: Any) -> PublicSet:
        """Ask a benchmark for them.

        Raises:
            ValueError: If it has none, or one prompt twice.
        """
        examples: Sequence[Example] = benchmark.public_prompts()
        if not examples:
            raise ValueError(
                f"benchmark={benchmark.name} has no public prompts, on which this method exchanges answers; "
                "take a benchmark that has (fedapp list), or raise its number of them where it is a setting"
            )
        if len({example.prompt for example in examples}) < len(examples):
            raise ValueError(f"benchmark={benchmark.name} has a public prompt twice; each must differ")
        return cls(tuple(examples), tuple(benchmark.labels or ()), benchmark)

    @cached_property
    def digest(self) -> str:
        """Eight hex digits by which both sides see that they mean the same prompts."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(example.prompt.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()[:8]

    def agreement(self, answers: Mapping[int, str]) -> float | None:
        """The benchmark's main metric of some prompts' answers against the references.

        Args:
            answers: Text by number of the prompt.

        Returns:
            None where there is nothing to compare.
        """
        if not answers or self.benchmark is None:
            return None
        given = [self.benchmark.extract(answers[number]) for number in sorted(answers)]
        wanted = [self.examples[number].target for number in sorted(answers)]
        return float(next(iter(self.benchmark.score(given, wanted).values())))
