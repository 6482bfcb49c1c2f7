"""Arithmetic reasoning with the data, prompt and answer rules of LLM-Adapters.

Training and test data of this collection overlap: its training sets hold AddSub, MultiArith and
SingleEq, and ``math_data`` holds most of the test rows of AQuA and GSM8K too. A score on questions
seen in training says nothing, so such a pair is refused, or the rows are taken out (``leak``).

Source: evaluate.py of https://github.com/AGI-Edgerunners/LLM-Adapters; what leaks: ReFT,
https://arxiv.org/abs/2404.03592, and a comparison of the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fedapp.benchmarks.base import check_split
from fedapp.benchmarks.llm_adapters.schema import SPLITS, Reasoning, prompt_templates
from fedapp.benchmarks.metrics import accuracy, same_number
from fedapp.benchmarks.sources import with_columns
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

FOLDERS = {
    "aqua": "AQuA",
    "gsm8k": "gsm8k",
    "mawps": "mawps",
    "svamp": "SVAMP",
    "addsub": "AddSub",
    "multiarith": "MultiArith",
    "singleeq": "SingleEq",
}
"""Our task names to the folders of the repository."""

LETTER_TASKS = frozenset({"aqua"})
"""Tasks answered by the letter of a choice; the others are answered by a number."""

_CONTAINED = frozenset({"addsub", "multiarith", "singleeq"})
LEAKS = dict.fromkeys(("math_data", "math_7k", "math_10k", "math_14k", "math_50k"), _CONTAINED)
"""Training set to the tasks that it is made of."""

MAX_OVERLAP = 0.05
"""Share of a task's test questions that may occur in the training rows, word for word, by chance."""


@dataclass(frozen=True)
class Arithmetic(Reasoning):
    """Word problems answered by a chain of thought that ends in a number or a letter.

    Attributes:
        leak: What to do about test questions among the training rows: ``refuse``, or ``drop`` them
            from the training rows. The others are those of ``Reasoning``.
    """

    leak: str = "refuse"
    name: str = field(default="arithmetic", init=False)
    folders: ClassVar[Mapping[str, str]] = FOLDERS
    templates: ClassVar[tuple[str, str]] = prompt_templates(between=" " * 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leak not in ("refuse", "drop"):
            raise ValueError(f"leak={self.leak!r} must be one of: refuse, drop")
        for name in self.train:
            leaked = [task for task in self.tasks if task in LEAKS.get(name, ())]
            if leaked:
                fair = ", ".join(task for task in FOLDERS if task not in LEAKS[name])
                raise ValueError(
                    f"tasks={list(self.tasks)} cannot be tested after training on {name}, which is "
                    f"made of {', '.join(leaked)}; choose tasks out of: {fair}"
                )

    def load(self, split: str) -> Dataset:
        """Rows of ``train`` or ``test``: the schema's columns, ``task`` and ``target``.

        ``target`` is the reply to learn or to compare with: the row's ``output``, but in the test
        split, where many outputs were generated and are wrong, only if it ends in the row's answer,
        and else the answer alone.

        Raises:
            ValueError: If the split or its data does not exist, or (``leak=refuse``) test questions
                are among the training rows.
        """
        check_split(split, SPLITS)
        train, test = self.read("train"), self.read("test")
        if self.leak == "refuse":
            self._refuse_overlap(train, test)
        if split == "test":
            return with_columns(test, target=[_reply(row) for row in test])
        if self.leak == "drop":
            asked = {_question(text) for text in test["instruction"]}
            kept = [i for i, text in enumerate(train["instruction"]) if _question(text) not in asked]
            if not kept:
                raise ValueError("benchmark.leak=drop leaves no training rows: all are test questions")
            train = train.select(kept)
        replies = [row["output"].strip() or row["answer"].strip() for row in train]
        return with_columns(train, target=replies)

    def template(self, row: Mapping[str, Any]) -> Example:
        """The evaluator's prompt and the reply that ``load`` chose as target."""
        return Example(prompt=self.ask(row), target=row["target"], task=row["task"])

    def extract(self, completion: str) -> str:
        """The last number, the first letter A to E, or both where tasks of both kinds are chosen.

        The first capital letter anywhere in the text is the evaluator's rule, weak as it is.
        """
        letter = _letter(completion) if LETTER_TASKS & set(self.tasks) else ""
        number = _number(completion) if set(self.tasks) - LETTER_TASKS else ""
        return f"{letter} {number}".strip()

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Accuracy: the same letter, or a number at most 0.001 away, as the target asks.

        Args:
            answers: Extracted answers, or whole completions: both score alike.
            targets: The examples' targets: replies, or answers alone.

        Raises:
            ValueError: If there is nothing to score or the lengths differ.
        """
        if len(answers) != len(targets):
            raise ValueError(f"{len(answers)} answers cannot be scored against {len(targets)} targets")
        right = [str(_equal(a, gold_answer(t))) for a, t in zip(answers, targets, strict=True)]
        return {"accuracy": accuracy(right, [str(True)] * len(right))}

    def _refuse_overlap(self, train: Dataset, test: Dataset) -> None:
        seen = {_question(text) for text in train["instruction"]}
        for task in self.tasks:
            pairs = zip(test["instruction"], test["task"], strict=True)
            asked = [_question(text) for text, name in pairs if name == task]
            leaked = sum(question in seen for question in asked)
            if leaked > MAX_OVERLAP * len(asked):
                raise ValueError(
                    f"benchmark.tasks has {task}, but {leaked} of its {len(asked)} test questions are among "
                    f"the training rows of {', '.join(self.train or self.tasks)}; choose other tasks, or "
                    "benchmark.leak=drop to take them out of the training rows"
                )


def gold_answer(reply: str) -> str:
    """The answer that a given (not generated) reply ends in: a letter A to E, a number, or nothing.

    Args:
        reply: ``4``, ``B`` or a chain of thought that ends in ``The answer is (C).``
    """
    letters = re.findall(r"(?:answer is:?\s*|^)\(?([A-E])\b(?=\)?\.?\s*$)", reply.strip())
    return letters[-1] if letters else _number(reply)


def _letter(text: str) -> str:
    found = re.search(r"[A-E]", text)
    return found.group() if found else ""


def _number(text: str) -> str:
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return found[-1].rstrip(".") if found else ""


def _equal(answer: str, gold: str) -> bool:
    return _letter(answer) == gold if gold.isalpha() else same_number(_number(answer), gold)


def _reply(row: Mapping[str, Any]) -> str:
    answer = row["answer"].strip()
    gold = gold_answer(row["output"])
    agrees = gold == answer if gold.isalpha() or answer.isalpha() else same_number(gold, _number(answer))
    return row["output"].strip() if agrees else answer


def _question(text: str) -> str:
    return " ".join(text.lower().split())
