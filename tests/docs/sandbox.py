"""A folder in which the commands of a page have what they speak of: data, a model, finished runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedapp.cli.main import main
from fedapp.client import workplace as workplaces
from fedapp.core.files import ROOT
from tests import tiny_models
from tests.docs.execution import RUN, SMALL
from tests.federation import Killed, killing, run_toy

CLASSIFIED = {"reading-results": "classified"}
"""Pages whose runs have macro-F1."""
LABELS = {"trec": 6, "agnews": 4, "emo": 4, "sst5": 5, "sst2": 2}
TEXTS = (
    "how far is the box",
    "a film of great charm",
    "rain over the hills",
    "the cat has two apples",
    "why not",
)
OPTIONS = {
    "piqa": ("solution", 2),
    "arc_easy": ("answer", 4),
    "arc_challenge": ("answer", 4),
    "openbookqa": ("answer", 4),
    "winogrande": ("option", 2),
    "hellaswag": ("ending", 4),
    "social_i_qa": ("answer", 3),
}


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(data: Path) -> None:
    """Some rows in the layout of every data set that a page reads from a folder."""
    for split in ("train", "validation", "test"):
        for task, labels in LABELS.items():
            column = "sentence" if task == "sst2" else "text"
            rows = [{column: f"{TEXTS[n % 5]} {n} {split}", "label": n % labels} for n in range(600)]
            write(data / "text_classification" / task / f"{split}.jsonl", rows)
        rows = [{"sentence": f"{TEXTS[n % 5]} {n} {split}", "label": n % 2, "idx": n} for n in range(300)]
        write(data / "glue" / "sst2" / f"{split}.jsonl", rows)
        for task in ("boxes", "hats", "stones"):
            rows = [{"prompt": f"{task} {n} {split} ?", "target": str(n)} for n in range(12)]
            write(data / "mine" / task / f"{split}.jsonl", rows)
    for task in ("commonsense", "paraphrase", "science", "topic"):
        for split in ("train", "test"):
            rows = [{"prompt": f"{task} {split} {n} ?", "target": ["yes", "no"][n % 2]} for n in range(12)]
            for folder in ("t0", "t0s"):
                write(data / folder / task / f"{split}.jsonl", rows)
    for own in ("mine", "t0"):
        write(data / own / "public.jsonl", [{"prompt": f"public {n} ?"} for n in range(6)])
    for split in ("train", "test"):
        for task, (word, count) in OPTIONS.items():
            write(data / "commonsense" / task / f"{split}.jsonl", map(_choice(word, count), range(12)))
        said = {"instruction": "Please answer the following question with true or false, question: is it?"}
        boolq = said | {"input": "", "output": "the correct answer is true", "answer": "true"}
        boolq["instruction"] += "\n\nAnswer format: true/false"
        write(data / "commonsense" / "boolq" / f"{split}.jsonl", [boolq] * 12)


def _choice(word: str, count: int):
    asked = {
        "option": "answer to fill in the blank to complete the given sentence: Sarah saw Maria so _ left",
        "ending": "ending to complete the given sentence: A man runs. He",
    }.get(word, f"{word if word == 'solution' else 'answer'} to the question: What now?")

    def row(n: int) -> dict[str, str]:
        options = " ".join(f"{word.capitalize()}{k + 1}: thing {n + k}" for k in range(count))
        names = "/".join(f"{word}{k + 1}" for k in range(count))
        answer = f"{word}{n % count + 1}"
        text = f"Please choose the correct {asked}\n\n{options}\n\nAnswer format: {names}"
        return {
            "instruction": text,
            "input": "",
            "output": f"the correct answer is {answer}",
            "answer": answer,
        }

    return row


def make_sandbox(folder: Path) -> Path:
    """Data, a model folder, finished runs, a task store, results and pages.

    Args:
        folder: To fill.

    Returns:
        The folder; `furnish` makes of it that of a page.
    """
    made, data = folder / "made", folder / "data"
    write_data(data)
    encoder = folder / "models" / "roberta-large"
    tiny_models.model("Roberta", labels=2).save_pretrained(encoder)
    tiny_models.tokenizer().save_pretrained(encoder)
    shown = ["benchmark=embedded_text_classification", "score.splits=[validation,test]"]
    trec = ["model=embedded_gpt2", "benchmark=trec", f"benchmark.data_dir={data / 'text_classification'}"]
    for place, words in {
        f"embedded/{RUN}": ["method=fedit"],
        f"embedded/{RUN}-fedreft": ["method=fedreft"],
        f"classified/{RUN}": ["method=fedit", *shown],
        f"classified/{RUN}-fedreft": ["method=fedreft", *shown],
        "trec/one": ["method=ifed_icl", f"method.store_dir={data / 'tasks'}", *trec],
    }.items():
        small = [f"{key}={value}" for key, value in SMALL.items()]
        assert main(["run", *words, *small, "num_rounds=2", "num_clients=2", f"run_dir={made / place}"]) == 0
        workplaces.close()
    shutil.copytree(data / "tasks", folder / "tasks")
    shutil.copytree(ROOT / "results", folder / "results")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("images"))
    shutil.copy(ROOT / "README.md", folder / "README.md")
    write(folder / "rows.jsonl", [{"prompt": text} for text in TEXTS])
    return folder


def furnish(folder: Path, page: str) -> None:
    """Put the runs into a copy of the sandbox that a page speaks of before it makes its own."""
    shutil.copytree(folder / "made" / CLASSIFIED.get(page, "embedded"), folder / "runs")
    if page == "scores":
        shutil.copytree(folder / "made" / "trec", folder / "runs" / "icl")
    if page == "resume":
        _stopped_run(folder / "runs" / f"{RUN}-fedreft-embedded-s1")


def _stopped_run(folder: Path) -> None:
    """A run of the toy world that was killed in its second round."""
    try:
        run_toy(folder, "num_rounds=3", network=killing(2, "train"))
    except Killed:
        return
    raise AssertionError("the run was not stopped")
