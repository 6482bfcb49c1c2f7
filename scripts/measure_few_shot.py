"""Measure what a model answers with and without labelled texts in its prompt.

    python scripts/measure_few_shot.py fedapp/assets/embedded_icl --shots 0 1 2 4 8

Every task is drawn anew with a template that the episodes of pre-training never use. ``arbitrary``
tasks label their classes with words that are never labels there; ``fitting`` tasks use the held-out
words that fit the classes; the others are the tasks of ``embedded_text_classification``, shots from
its train split and questions from its test split. Per class there are as many labelled texts as
``--shots`` says, shuffled.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedapp.benchmarks.embedded.classification import TASKS, EmbeddedClassification
from fedapp.benchmarks.embedded.episodes import (
    FAMILIES,
    HELD_OUT_KINDS,
    HELD_OUT_LABELS,
    HELD_OUT_TEMPLATES,
    WEIGHTS,
    Task,
)

FEELINGS = {"good": "happy", "bad": "sad", "mixed": "unsure"}


def arbitrary(rng: random.Random) -> Task:
    """A task of any family with two to four classes and held-out label words at random."""
    family = FAMILIES[rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]]
    classes = rng.sample(family.classes, rng.randint(2, min(4, len(family.classes))))
    labels = dict(zip(classes, rng.sample(HELD_OUT_LABELS, len(classes)), strict=True))
    return Task(family, labels, *rng.choice(HELD_OUT_TEMPLATES), family.frames)


def fitting(rng: random.Random) -> Task:
    """Opinions labelled with feelings, or words labelled with the held-out names of their kinds."""
    if rng.random() < 0.5:
        return Task(FAMILIES["tone"], FEELINGS, *rng.choice(HELD_OUT_TEMPLATES), FAMILIES["tone"].frames)
    labels = {kind: kind for kind in HELD_OUT_KINDS}
    return Task(FAMILIES["kind"], labels, *rng.choice(HELD_OUT_TEMPLATES), FAMILIES["kind"].frames)


class Rows:
    """A task of the benchmark: draws its train rows where a class is wanted, else its test rows."""

    def __init__(self, name: str) -> None:
        """Generate both splits."""
        self.benchmark = EmbeddedClassification(name)
        self.labels = dict(enumerate(self.benchmark.labels))
        self.test = list(self.benchmark.load("test"))
        self.train = {
            c: [row for row in self.benchmark.load("train") if row["label"] == c] for c in self.labels
        }

    def draw(self, rng: random.Random, wanted: int | None = None) -> tuple[str, str]:
        """Draw a prompt and its label word."""
        row = rng.choice(self.test if wanted is None else self.train[wanted])
        example = self.benchmark.template(row)
        return example.prompt, example.target


def prompt_of(task: Task | Rows, shots: int, rng: random.Random) -> tuple[str, str]:
    """A prompt with labelled texts, and the label word that is right."""
    wanted = [c for c in task.labels for _ in range(shots)]
    rng.shuffle(wanted)
    shown = "".join(f"{prompt} {label}\n" for prompt, label in (task.draw(rng, c) for c in wanted))
    prompt, label = task.draw(rng)
    return shown + prompt, label


@torch.no_grad()
def accuracy(model, tokenizer, draw, shots: int, count: int, seed: int) -> tuple[float, float, float]:
    """Shares of right answers, over the whole vocabulary and among the task's labels; and of chance."""
    rng = random.Random(seed)
    free = among = chance = 0.0
    for _ in range(count):
        task = draw(rng)
        prompt, label = prompt_of(task, shots, rng)
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0, -1]
        words = list(task.labels.values())
        tokens = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words]
        right = tokens[words.index(label)]
        free += float(logits.argmax() == right)
        among += float(tokens[int(logits[tokens].argmax())] == right)
        chance += 1 / len(words)
    return free / count, among / count, chance / count


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    print("labels     shots-per-class  accuracy  among-labels  chance")
    rows = {name: Rows(name) for name in TASKS}
    draws = {"arbitrary": arbitrary, "fitting": fitting}
    draws |= {name: lambda rng, task=task: task for name, task in rows.items()}
    for name, draw in draws.items():
        for shots in args.shots:
            values = accuracy(model, tokenizer, draw, shots, args.count, args.seed)
            print(f"{name:9}  {shots:15d}  " + "  ".join(f"{value:.3f}" for value in values))


if __name__ == "__main__":
    main()
