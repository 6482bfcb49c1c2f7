"""Commonsense reasoning with the data, prompt and answer patterns of LLM-Adapters.

Source: commonsense_evaluate.py of https://github.com/AGI-Edgerunners/LLM-Adapters
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.llm_adapters import schema as llm_adapters
from fedapp.benchmarks.metrics import accuracy
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

TEMPLATES = llm_adapters.prompt_templates(between="")


@dataclass(frozen=True)
class Commonsense(BenchmarkDefaults):
    """Up to eight multiple-choice tasks whose answer is generated as text.

    Attributes:
        tasks: Tasks to test on, out of ``FOLDERS``.
        train: Training sets; empty: the tasks' own train splits, which keeps each row's task.
        prompt: Own prompt with ``{instruction}`` in it; None: the evaluator's.
        data_dir: Folder with ``<task>/<split>.jsonl``; None: over the network.
        path: Where tasks come from without ``data_dir``: address or hub name (``base.read_remote``).
        train_path: The same for training sets that are no task.
    """

    tasks: tuple[str, ...]
    train: tuple[str, ...] = ()
    prompt: str | None = None
    data_dir: str | None = None
    path: str = llm_adapters.TASK_FILES
    train_path: str = llm_adapters.TRAINING_FILES
    name: str = field(default="commonsense", init=False)
    version: str = field(default="1", init=False)
    source: str = field(default="https://github.com/AGI-Edgerunners/LLM-Adapters", init=False)
    labels: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "train", tuple(self.train))
        llm_adapters.check_settings(self.tasks, self.prompt, tuple(FOLDERS))

    def load(self, split: str) -> Dataset:
        """Rows of ``train`` or ``test``: the schema's columns and ``task``.

        Raises:
            ValueError: If the split or its data does not exist.
        """
        check_split(split, llm_adapters.SPLITS)
        names = (self.train or self.tasks) if split == "train" else self.tasks
        return llm_adapters.read_tasks(
            names,
            split,
            folders=FOLDERS,
            data_dir=self.data_dir,
            path=self.path,
            train_path=self.train_path,
        )

    def template(self, row: Mapping[str, Any]) -> Example:
        """The evaluator's prompt; the target is the whole reply (``the correct answer is true``)."""
        prompt = llm_adapters.fill(TEMPLATES, self.prompt, row)
        return Example(prompt=prompt, target=row["output"].strip(), task=row["task"])

    def extract(self, completion: str) -> str:
        """The first answer word of each kind in the text; nearly always one word.

        The evaluator looks for one kind only, that of the task. Which one is known when scoring:
        ``score`` reads the word of the target's kind out of what stands here.
        """
        found = (re.search(pattern, completion) for pattern in PATTERNS)
        return " ".join(match.group() for match in sorted((m for m in found if m), key=lambda m: m.start()))

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Accuracy: the first answer word of the target's kind must be the target's.

        Args:
            answers: Extracted answers, or whole completions: both score alike.
            targets: The examples' targets, whole replies.

        Raises:
            ValueError: If a target holds no answer word, there is nothing to score or the lengths differ.
        """
        if len(answers) != len(targets):
            raise ValueError(f"{len(answers)} answers cannot be scored against {len(targets)} targets")
        pairs = [_read(answer, target) for answer, target in zip(answers, targets, strict=True)]
        return {"accuracy": accuracy([given for given, _ in pairs], [wanted for _, wanted in pairs])}


def _read(answer: str, target: str) -> tuple[str, str]:
    for pattern in PATTERNS:
        wanted = re.search(pattern, target)
        if wanted:
            given = re.search(pattern, answer)
            return (given.group() if given else ""), wanted.group()
    raise ValueError(f"the target {target!r} holds no answer like true, answer1, solution1 or option1")
