"""The embedded benchmark: five task families in short natural-language prompts, no download.

The data are generated; the situations are those of the embedded model's pre-training text, but every
prompt format is new to the model, and so are the situations of the test split: a sum, fact or word
that a test prompt asks about never occurs as the subject of a training prompt.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedapp.benchmarks.base import BenchmarkDefaults
from fedapp.benchmarks.embedded import world
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

Format = tuple[world.Sampler, str, str]
"""A sampler, the prompt pattern, and the part (or pattern of parts) that is the answer."""

FORMATS: dict[str, tuple[Format, ...]] = {
    "arithmetic": (
        (world.addition, "puzzle : {name} kept {a} {items} and bought {b} . solution :", "{answer}"),
        (world.addition, "count the {items} : {a} here , {b} there . final count :", "{answer}"),
        (world.addition, "{items} at first : {a} . gain : {b} . final number :", "{answer}"),
        (world.subtraction, "puzzle : {name} bought {a} {items} and gave away {b} . solution :", "{answer}"),
        (world.subtraction, "count the {items} : {a} at first , {b} away . final count :", "{answer}"),
        (world.subtraction, "{items} at first : {a} . to spend : {b} . final number :", "{answer}"),
    ),
    "commonsense": (
        (world.use, "goal : {goal} . options : {first} , {second} . best pick :", "{answer}"),
        (world.use, "please choose , {first} or {second} . the job is to {goal} . pick the", "{answer}"),
        (world.use, "{name} is to pick {first} or {second} for this task : {goal} . best tool :", "{answer}"),
        (world.use, "solve this : {goal} . input {first} , {second} . output", "{answer}"),
    ),
    "sentiment": (
        (world.opinion, "review : {text} . rating :", "{stars}"),
        (world.opinion, "a customer says : {text} . tone of the note :", "{feeling}"),
        (world.opinion, "{text} - the verdict is", "{answer}"),
        (world.opinion, "topic {thing} . {text} . final opinion :", "{answer}"),
    ),
    "instruction": (
        (world.opposite, "command : opposite , input : {word} , output :", "{answer}"),
        (world.kind, "command : class , input : {word} , output :", "{answer}"),
        (world.row, "command : first , input : {words} , output :", "{one}"),
        (world.row, "command : last , input : {words} , output :", "{three}"),
        (world.row, "command : middle , input : {words} , output :", "{two}"),
        (world.row, "command : backwards , input : {words} , output :", "{three} {two} {one}"),
        (world.series, "command : next , input : {numbers} , output :", "{answer}"),
    ),
    "odd-one-out": (
        (world.outsider, "list : {words} . odd word :", "{answer}"),
        (world.outsider, "pick the one for the gap , {words} . odd one :", "{answer}"),
        (
            world.outsider,
            "solve the puzzle , guess the partner without a class : {words} . reply :",
            "{answer}",
        ),
    ),
}
"""Prompt formats by task family; none of them occurs in the pre-training text."""

TEST_SHARE = 4
"""One situation in this many belongs to the test split, chosen by a checksum of its key."""


def split_of(key: str) -> str:
    """Say which split a situation belongs to; depends on the situation alone, not on any seed."""
    return "test" if zlib.crc32(key.encode()) % TEST_SHARE == 0 else "train"


def draw(task: str, split: str, rng: random.Random) -> dict[str, str]:
    """Draw one row of a task family: prompt, target, task."""
    sampler, prompt, target = rng.choice(FORMATS[task])
    while True:
        parts = sampler(rng)
        if split_of(parts["key"]) == split:
            return {"prompt": prompt.format_map(parts), "target": target.format_map(parts), "task": task}


def answer_in(completion: str) -> str:
    """The words before the first sign, in lower case."""
    return " ".join(re.split(r"[^\w\s]", completion.strip().lower(), maxsplit=1)[0].split())


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse task families that are unknown or named twice.

    Raises:
        ValueError: In one line that says which there are.
    """
    known = ", ".join(FORMATS)
    if isinstance(tasks, str) or not tasks or not set(tasks) <= set(FORMATS):
        raise ValueError(f"benchmark.tasks={tasks!r} must be a list out of: {known}")
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"benchmark.tasks={list(tasks)!r} must name each task family once")


@dataclass(frozen=True)
class Embedded(BenchmarkDefaults):
    """Arithmetic stories, two-choice commonsense, sentiment, instructions and odd-one-out.

    Attributes:
        tasks: Task families, in the order in which rows take turns.
        num_train: Rows of the train split, all families together.
        num_test: Rows of the test split, all families together.
        seed: Seed of the generated data; not the run's seed.
    """

    tasks: Sequence[str] = tuple(FORMATS)
    num_train: int = 1600
    num_test: int = 400
    seed: int = 0

    name = "embedded"
    version = "1"
    source = "generated by fedapp.benchmarks.embedded.stories"
    labels = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a task family is unknown or named twice, or a size is not positive.
        """
        check_tasks(self.tasks)
        for setting in ("num_train", "num_test"):
            if getattr(self, setting) < 1:
                raise ValueError(f"{setting}={getattr(self, setting)!r} must be at least 1")

    def load(self, split: str) -> Dataset:
        """Generate one split; the same settings give the same rows.

        Returns:
            Rows with the columns prompt, target, task; no prompt twice, none in both splits.

        Raises:
            ValueError: If the split is unknown, or more rows are asked for than there are prompts.
        """
        from datasets import Dataset

        sizes = {"train": self.num_train, "test": self.num_test}
        if split not in sizes:
            raise ValueError(f"split={split!r} must be one of: train, test")
        rng = random.Random(f"{self.name}/{self.version}/{self.seed}/{split}")
        rows: dict[str, dict[str, str]] = {}
        tries = 0
        while len(rows) < sizes[split]:
            row = draw(self.tasks[len(rows) % len(self.tasks)], split, rng)
            rows.setdefault(row["prompt"], row)
            tries += 1
            if tries > 20 * sizes[split] + 1000:
                most = f"at most about {len(rows)} with these tasks"
                raise ValueError(f"benchmark.num_{split}={sizes[split]!r} is too large: {most}")
        return Dataset.from_list(list(rows.values()))

    def template(self, row: Mapping[str, Any]) -> Example:
        """Turn a row into an example; the prompt is complete as it stands."""
        return Example(prompt=row["prompt"], target=row["target"], task=row["task"])

    def extract(self, completion: str) -> str:
        """Cut the answer out of generated text: what stands before the first sign, in lower case."""
        return answer_in(completion)

    def score(self, answers: Iterable[str], targets: Iterable[str]) -> dict[str, float]:
        """Share of answers that equal their target exactly, a fraction in [0, 1].

        Raises:
            ValueError: If there are no answers, or not as many as targets.
        """
        answers, targets = list(answers), list(targets)
        if not answers or len(answers) != len(targets):
            raise ValueError(f"score needs one answer per target, got {len(answers)} for {len(targets)}")
        right = sum(answer == target for answer, target in zip(answers, targets, strict=True))
        return {"accuracy": right / len(targets)}
