"""What a benchmark is, and reading its rows from a folder or from the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")


class Benchmark(Protocol):
    """A data set with its prompt template and its metric.

    Implementations are frozen dataclasses: their ``repr`` tells all settings, by which a process
    recognises client data that it has made already (``fedapp.client.rows``).

    Extend ``BenchmarkDefaults`` for the members that few data sets have an own answer to.
    """

    @property
    def name(self) -> str:
        """Short name, as in tables."""

    @property
    def version(self) -> str:
        """Changes whenever the same settings would give other rows, prompts or scores."""

    @property
    def source(self) -> str:
        """Paper or repository that fixes the protocol."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names in the order of their indices for classification; None where text is generated."""

    @property
    def template_version(self) -> str:
        """Changes with the prompt or the labels, by which a server knows a task again."""

    def public_prompts(self) -> list[Example]:
        """Prompts in neither train nor test split, for methods whose clients exchange answers.

        Their targets are references for reports, not sent. Empty where the benchmark has none.
        """

    def load(self, split: str) -> Dataset:
        """Rows of ``train``, ``validation`` or ``test``: the source's columns and ``task``."""

    def template(self, row: Mapping[str, Any]) -> Example:
        """Turn a row of ``load`` into a prompt and the answer wanted."""

    @property
    def has_options(self) -> bool:
        """Whether examples come with options, among which the model chooses by likelihood."""

    def choose(self, options: Sequence[str], log_likelihoods: Sequence[float]) -> str:
        """The option that the model prefers.

        Args:
            options: Of an example.
            log_likelihoods: Of each option behind the prompt, nats.
        """

    def extract(self, completion: str) -> str:
        """The answer inside a generated text; empty where there is none. Idempotent."""

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Compare extracted answers with the examples' targets; the main metric comes first."""


class BenchmarkDefaults:
    """What holds for a benchmark that says nothing else."""

    version: str

    @property
    def template_version(self) -> str:
        """Version of prompt and labels alone; here that of the benchmark."""
        return self.version

    @property
    def has_options(self) -> bool:
        """No: the model writes, or chooses among label words."""
        return False

    def public_prompts(self) -> list[Example]:
        """None; see ``Benchmark``."""
        return []

    def choose(self, options: Sequence[str], log_likelihoods: Sequence[float]) -> str:
        """The likeliest one."""
        return max(zip(log_likelihoods, options, strict=True), key=lambda pair: pair[0])[1]


def check_split(split: str, known: Sequence[str] = SPLITS) -> None:
    """Refuse a split that the benchmark does not have.

    Raises:
        ValueError: If ``split`` is not among ``known``.
    """
    if split not in known:
        raise ValueError(f"split={split!r} does not exist; known: {', '.join(known)}")
