"""Commonsense reasoning with the data, prompt and answer patterns of LLM-Adapters.

Source: commonsense_evaluate.py of https://github.com/AGI-Edgerunners/LLM-Adapters
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fedapp.benchmarks.llm_adapters.options import to_choice
from fedapp.benchmarks.llm_adapters.schema import Reasoning, prompt_templates
from fedapp.benchmarks.metrics import accuracy
from fedapp.core.checks import require_choice
from fedapp.core.errors import RowError
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

FOLDERS = {
    "boolq": "boolq",
    "piqa": "piqa",
    "social_i_qa": "social_i_qa",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "openbookqa": "openbookqa",
}
"""Our task names to the folders of the repository."""

PATTERNS = (
    r"true|false",
    r"solution1|solution2",
    r"answer1|answer2|answer3|answer4|answer5",
    r"ending1|ending2|ending3|ending4",
    r"option1|option2",
)
"""Answers of BoolQ, PIQA, the question sets, HellaSwag and WinoGrande, as the evaluator looks for them."""

SCORINGS = ("generate", "loglikelihood")


@dataclass(frozen=True)
class Commonsense(Reasoning):
    """Up to eight multiple-choice tasks; further settings: ``Reasoning``.

    Attributes:
        scoring: ``generate``: the answer is written, as LLM-Adapters has it. ``loglikelihood``: the question
            alone is the prompt, and the likeliest of the options' own words is the answer.
        length_norm: What an option's log-likelihood is divided by: its ``characters`` (lighteval's acc_norm),
            or ``none`` (acc).
    """

    scoring: str = "generate"
    length_norm: str = "characters"
    name: str = field(default="commonsense", init=False)
    folders: ClassVar[Mapping[str, str]] = FOLDERS
    templates: ClassVar[tuple[str, str]] = prompt_templates(between="")
    replies: ClassVar[tuple[str, ...]] = ("output",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("scoring", self.scoring, SCORINGS)
        require_choice("length_norm", self.length_norm, ("characters", "none"))
        if self.has_options and self.prompt is not None:
            raise ValueError(
                f"prompt={self.prompt!r} must be null with benchmark.scoring=loglikelihood, which asks the "
                "question alone"
            )

    @property
    def has_options(self) -> bool:
        """Whether the model chooses among the options by likelihood."""
        return self.scoring == "loglikelihood"

    def load(self, split: str) -> Dataset:
        """Rows of ``train`` or ``test``: the schema's columns and ``task``.

        Raises:
            ValueError: If the split or its data does not exist.
            RowError: If a row cannot be used.
        """
        return self.read(split)

    def template(self, row: Mapping[str, Any]) -> Example:
        """The evaluator's prompt; the target is the whole reply (``the correct answer is true``).

        With options: see ``options.to_choice``.
        """
        if self.has_options:
            return to_choice(row)
        return Example(prompt=self.ask(row), target=row["output"].strip(), task=row["task"])

    def choose(self, options: Sequence[str], log_likelihoods: Sequence[float]) -> str:
        """The option of the highest log-likelihood per character, or as a whole; the first of equals."""
        lengths = [len(text) if self.length_norm == "characters" else 1 for text in options]
        ratings = [value / length for value, length in zip(log_likelihoods, lengths, strict=True)]
        return options[ratings.index(max(ratings))]

    def extract(self, completion: str) -> str:
        """The first answer word of each kind in the text; nearly always one word.

        The evaluator looks for one kind only, that of the task. Which one is known when scoring:
        ``score`` reads the word of the target's kind out of what stands here. With options: the text.
        """
        if self.has_options:
            return completion.strip()
        found = (re.search(pattern, completion) for pattern in PATTERNS)
        return " ".join(match.group() for match in sorted((m for m in found if m), key=lambda m: m.start()))

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Accuracy: the first answer word of the target's kind must be the target's; with options, the text.

        Args:
            answers: Extracted answers, or whole completions: both score alike.
            targets: The examples' targets, whole replies.

        Raises:
            RowError: If a target holds no answer word.
            ValueError: If there is nothing to score or the lengths differ.
        """
        if len(answers) != len(targets):
            raise ValueError(f"{len(answers)} answers cannot be scored against {len(targets)} targets")
        if self.has_options:
            return {"accuracy": accuracy(answers, targets)}
        pairs = [_read(answer, target) for answer, target in zip(answers, targets, strict=True)]
        return {"accuracy": accuracy([given for given, _ in pairs], [wanted for _, wanted in pairs])}


def _read(answer: str, target: str) -> tuple[str, str]:
    for pattern in PATTERNS:
        wanted = re.search(pattern, target)
        if wanted:
            given = re.search(pattern, answer)
            return (given.group() if given else ""), wanted.group()
    text = "the output of a row holds no answer like true, answer1, solution1 or option1"
    raise RowError(text, f"{text}: {target!r}")
