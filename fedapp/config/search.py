"""How a sweep goes: what ``sweep=NAME`` (``conf/sweep``) and ``sweep.KEY=VALUE`` say."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from fedapp.config.build import ConfigError, nearest
from fedapp.config.choices import OF_SWEEPS
from fedapp.config.overrides import explain_syntax, key_of
from fedapp.core import files
from fedapp.core.checks import require_int, show_value

OBJECTIVES = {
    "validation-score": True,
    "payload-bytes": False,
    "sent-bytes": False,
    "received-bytes": False,
    "cpu-seconds": False,
}
"""What a search may go by, and whether more of it is better."""

RESUME = f"{OF_SWEEPS}.resume"


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep goes.

    Attributes:
        num_trials: Runs that a search makes; 0: no search, every combination is run.
        objectives: What a search goes by, of ``OBJECTIVES``; several: a Pareto front.
        seed: Of what a search draws.
        at_once: Trials drawn before any of them is scored.
    """

    num_trials: int = 0
    objectives: Sequence[str] = ()
    seed: int = 1
    at_once: int = 1

    def __post_init__(self) -> None:
        require_int("sweep.num_trials", self.num_trials, at_least=0)
        require_int("sweep.seed", self.seed, at_least=0)
        require_int("sweep.at_once", self.at_once, at_least=1)
        if isinstance(self.objectives, str) or not set(self.objectives) <= set(OBJECTIVES):
            raise ValueError(
                f"sweep.objectives={show_value(self.objectives)} must be a list of {', '.join(OBJECTIVES)}"
            )
        if self.searches and not self.objectives:
            raise ValueError("sweep.objectives=[] gives a search nothing to go by, e.g. [validation-score]")

    @property
    def searches(self) -> bool:
        """Whether settings are drawn, in the place of trying every combination."""
        return self.num_trials > 0


@dataclass(frozen=True)
class Drawn:
    """A setting that a search draws: from a list of values, or between two numbers.

    Attributes:
        key: As it stands before ``=``.
        choices: Values as an override writes them; empty: between ``low`` and ``high``.
        low, high: The least and the greatest value.
        step: Between whole numbers; None: any number between.
        log: Whether it is drawn by its logarithm.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: int | None = None
    log: bool = False

    def word(self, value: Any) -> str:
        """The override that gives it a value."""
        return f"{self.key}={value}"

    @property
    def first(self) -> str:
        """An override with one of its values."""
        return self.word(self.choices[0] if self.choices else self.low)


def drawn_settings(overrides: Sequence[Override]) -> list[Drawn]:
    """What a search draws, of parsed overrides.

    Raises:
        ConfigError: If that is nothing, a seed, or no range of numbers.
    """
    found = [_drawn(override) for override in overrides if override.is_sweep_override()]
    if not found:
        raise ConfigError("a search has nothing to draw: give KEY=A,B or 'KEY=interval(A,B)'")
    if any(one.key == "seed" for one in found):
        raise ConfigError("seed cannot be searched for: a search would choose a lucky one; give one seed")
    return found


def _drawn(override: Override) -> Drawn:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        log = "log" in value.tags
        if low is None or high is None or not low < high or (log and low <= 0):
            raise ConfigError(
                f"{override.input_line} must go from a number to a greater one, above 0 with log"
            )
        whole = isinstance(low, int) and isinstance(high, int)
        return Drawn(key, low=low, high=high, step=1 if whole else None, log=log)
    choices = tuple(override.sweep_string_iterator())
    if override.is_range_sweep() and all(text.lstrip("-").isdigit() for text in choices) and len(choices) > 1:
        numbers = sorted(map(int, choices))
        return Drawn(key, low=numbers[0], high=numbers[-1], step=numbers[1] - numbers[0])
    return Drawn(key, choices=choices)


def is_of_sweep(word: str) -> bool:
    """Whether an override says how a sweep goes, not what its runs do."""
    key = key_of(word)
    return key == OF_SWEEPS or key.startswith(f"{OF_SWEEPS}.")


def refuse_sweep_settings(overrides: Sequence[str]) -> None:
    """Refuse on a single run what only a sweep reads.

    Raises:
        ConfigError: If there is such a setting.
    """
    if word := next(filter(is_of_sweep, overrides), None):
        raise ConfigError(f"{word} has no effect on a single run: use --multirun")


def resume_setting(overrides: Sequence[str]) -> bool | str:
    """Which sweep is to go on.

    Args:
        overrides: Of which ``sweep.resume`` says so.

    Returns:
        True for the latest one of the same settings, a text for that in a folder, False for none.

    Raises:
        ConfigError: If it says something else.
    """
    value: Any = False
    for word in overrides:
        if word.partition("=")[0] == RESUME:
            value = _value(word)
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return value
    raise ConfigError(f"{RESUME}={show_value(value)} must be true, false or a sweep's folder")


def sweep_settings(overrides: Sequence[str]) -> SweepSettings:
    """What the overrides say of a sweep; those of its runs are passed over.

    Raises:
        ConfigError: If there is no such choice or setting, or a value cannot be used.
    """
    words = [word for word in overrides if is_of_sweep(word)]
    given = {word.partition("=")[0]: _value(word) for word in words}
    given.pop(RESUME, None)
    tree = _choice(str(given.pop(OF_SWEEPS))) if OF_SWEEPS in given else {}
    names = [field.name for field in fields(SweepSettings)]
    near = [*names, RESUME.partition(".")[2]]
    for key, value in given.items():
        setting = key.partition(".")[2]
        if setting not in names:
            close = difflib.get_close_matches(setting, near, n=1)
            raise ConfigError(f"{key} is not a setting{nearest(setting, close or near)}")
        tree[setting] = value
    try:
        return SweepSettings(**tree)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _choice(name: str) -> dict[str, Any]:
    folder = files.CONF / OF_SWEEPS
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"{OF_SWEEPS}={name} does not exist{nearest(name, known)}")
    tree: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return tree


def _value(word: str) -> Any:
    if word.startswith(("+", "~")):
        raise ConfigError(f"{word} cannot be used: write {word.lstrip('+~')}")
    if complaint := explain_syntax(word):
        raise ConfigError(complaint)
    (parsed,) = OverridesParser.create().parse_overrides([word])
    return parsed.value()
