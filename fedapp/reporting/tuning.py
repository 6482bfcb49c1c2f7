"""Step sizes chosen by validation scores: which trials there were, and what was taken.

Every method is given the same grid and the same seeds, so that none is tuned better than another. Test rows
have no say: a trial does not score them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedapp.config.overrides import key_of
from fedapp.core.files import write_atomically
from fedapp.reporting.result_file import NAMED, kept_overrides, names_of

STEP_SIZE = "train.learning_rate"


@dataclass(frozen=True)
class Trial:
    """One run of a sweep over step sizes.

    Attributes:
        overrides: All its settings.
        names: Its choices, by group of ``conf/``.
        seed: Its seed.
        step_size: The step size tried.
        score: Mean over clients of the final models' scores on validation rows.
    """

    overrides: tuple[str, ...]
    names: Mapping[str, str]
    seed: int
    step_size: float
    score: float

    @classmethod
    def of(cls, overrides: Sequence[str], config: Mapping[str, Any], score: float) -> Trial:
        """Take a trial from a run's overrides, config and validation score."""
        words = tuple(word for word in kept_overrides(overrides) if not word.startswith(f"{STEP_SIZE}="))
        return cls(
            words, names_of(config), int(config["seed"]), float(config["train"]["learning_rate"]), score
        )


_SIZES = (STEP_SIZE, "train.num_epochs", "train.max_steps")


@dataclass(frozen=True)
class Choice:
    """The step size chosen for one configuration.

    Attributes:
        overrides: Its settings, without seed and step size.
        names: Its choices, by group of ``conf/``.
        scores: Validation scores by step size, one a seed, as fractions.
        seeds: The seeds, in the order of the scores.
        chosen: The step size of the highest mean; the smaller of equals.
    """

    overrides: tuple[str, ...]
    names: Mapping[str, str]
    scores: Mapping[str, Sequence[float]]
    seeds: tuple[int, ...]
    chosen: float

    @property
    def at_edge(self) -> bool:
        """Whether the smallest or largest step size was chosen: a wider grid may hold a better one."""
        grid = sorted(map(float, self.scores))
        return self.chosen in (grid[0], grid[-1])

    def is_of(self, names: Mapping[str, str], overrides: Sequence[str], step_size: float) -> bool:
        """Whether it is where a result's step size comes from: the same parts, set in the same way.

        Sizes of data and numbers of rounds may differ: a table's note says with which a choice was made.

        Args:
            names: The result's choices, by group of ``conf/``.
            overrides: Its settings.
            step_size: Its step size.
        """
        same = self.names == names and _of_parts(self.overrides) == _of_parts(overrides)
        return same and self.chosen == step_size


def _of_parts(overrides: Sequence[str]) -> set[str]:
    """Settings of method, adapter, model, training: ``adapter.rank=1`` or another loss is tuned by itself."""
    parts = (*(f"{group}." for group in NAMED if group != "benchmark"), "train.")
    keys = {word: key_of(word) for word in overrides}
    return {word.lower() for word, key in keys.items() if key.startswith(parts) and key not in _SIZES}


def choose(trials: Sequence[Trial]) -> list[Choice]:
    """The step size with the highest validation score, for each configuration.

    Raises:
        ValueError: If configurations were tried with different step sizes or seeds.
    """
    groups: dict[tuple[str, ...], dict[float, dict[int, float]]] = {}
    names = {trial.overrides: trial.names for trial in trials}
    for trial in trials:
        groups.setdefault(trial.overrides, {}).setdefault(trial.step_size, {})[trial.seed] = trial.score
    plans = {
        tuple(sorted((size, tuple(sorted(seeds))) for size, seeds in tried.items()))
        for tried in groups.values()
    }
    if len(plans) > 1 or any(len({seeds for _, seeds in plan}) > 1 for plan in plans):
        raise ValueError("not every configuration was tried with the same step sizes and seeds")
    found = []
    for overrides, tried in sorted(groups.items()):
        best = max(tried, key=lambda size: (round(statistics.fmean(tried[size].values()), 9), -size))
        seeds = tuple(sorted(tried[best]))
        scores = {f"{size:g}": [tried[size][seed] for seed in seeds] for size in sorted(tried)}
        found.append(Choice(overrides, names[overrides], scores, seeds, best))
    return found


def write_choices(path: Path, choices: Sequence[Choice], about: Mapping[str, Any]) -> None:
    """Keep choices, each in the place of an older one of the same settings.

    Args:
        path: The file; a new one if there is none.
        choices: What was chosen.
        about: Commit and processor.

    Raises:
        ValueError: If the file holds something else, or choices among other step sizes.
        WriteError: If it cannot be written; it is left as it was.
    """
    kept = {one.overrides: one for one in (read_choices(path) if path.exists() else [])}
    kept |= {one.overrides: one for one in choices}
    plans = {(tuple(one.scores), len(one.seeds)) for one in kept.values()}
    if len(plans) > 1:
        raise ValueError(f"{path} holds choices from another grid or number of seeds: name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "chosen-by": "mean validation score",
        **about,
        "choices": [asdict(kept[key]) for key in sorted(kept)],
    }
    write_atomically(path, json.dumps(facts, indent=1) + "\n")


def read_choices(path: Path) -> list[Choice]:
    """The choices of a file.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return [
            Choice(**{**one, "overrides": tuple(one["overrides"]), "seeds": tuple(one["seeds"])})
            for one in facts["choices"]
        ]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no file of tuned step sizes") from None
