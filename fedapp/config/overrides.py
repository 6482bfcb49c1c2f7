"""Single overrides: how they are written, and what is wrong with one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fedapp.config.build import ConfigError
from fedapp.core.checks import show_value

OF_A_SWEEP = r"hydra[./]launcher\b|hydra\.job\.env_(set|copy)\b"
"""Hydra's own settings that a sweep reads; every other one fedapp sets itself, or has no use for."""


def explain_syntax(override: str, may_sweep: bool = False) -> str | None:
    """What is wrong with the form of an override, None if nothing is.

    Args:
        override: ``KEY=VALUE``, ``+KEY=VALUE`` or ``~KEY``.
        may_sweep: Whether it may give several values.
    """
    key, equals, _ = override.partition("=")
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return malformed(override)
    if not key.strip("+~ ") or not (equals or key.startswith("~")):
        return malformed(override)
    if parsed.is_sweep_override() and not may_sweep:
        return f"{override} gives several values: use --multirun for a run with each, {key}=[…] for a list"
    return None


def split_words(text: str) -> list[str]:
    """Single overrides out of one string, quoted as a shell would.

    Raises:
        ConfigError: If a quotation mark is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError:
        raise ConfigError(
            f"overrides={show_value(text)} cannot be read: a quotation mark is not closed"
        ) from None


def plain_value(text: str, key: str) -> str | None:
    """The text that overrides give to a setting, though others among them may not be readable.

    Args:
        text: Overrides in one string, quoted as a shell would.
        key: The setting.

    Returns:
        The last such value; None if there is none that is a text or a number.
    """
    try:
        words = split_words(text)
    except ConfigError:
        words = text.split()
    found = None
    for word in words:
        if word.lstrip("+").partition("=")[0] != key or explain_syntax(word):
            continue
        (parsed,) = OverridesParser.create().parse_overrides([word])
        value = parsed.value()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
            found = str(value)
    return found


def key_of(override: str) -> str:
    """The setting that an override is about, without the signs that add or delete."""
    return override.partition("=")[0].lstrip("+~")


def is_hydra(key: str) -> bool:
    """Whether a key, or an override, is one of Hydra's own."""
    return re.match(r"[+~]*hydra([./@=]|$)", key) is not None


def refuse_hydra(overrides: Sequence[str], *, sweeping: bool = False) -> None:
    """Refuse settings of Hydra's own that would have no effect.

    Raises:
        ConfigError: If there is one.
    """
    for override in filter(is_hydra, overrides):
        key = key_of(override)
        if not sweeping:
            raise ConfigError(
                f"{override} has no effect on a single run: of Hydra's own settings fedapp run --multirun "
                "reads hydra/launcher, with what belongs to it"
            )
        if re.match(r"hydra\.sweeper\.params\b", key):
            raise ConfigError(f"{override} has no effect: write what is swept as KEY=A,B")
        if re.match(r"hydra[./]sweeper\b", key):
            raise ConfigError(
                f"{override} has no effect: write sweep=search (Optuna), with settings as in conf/sweep"
            )
        if not re.match(OF_A_SWEEP, key):
            instead = (
                "the runs of a sweep go into a new folder below runs_dir"
                if key.startswith(("hydra.sweep.", "hydra.run."))
                else "of Hydra's own settings a sweep reads hydra/launcher"
            )
            raise ConfigError(f"{override} has no effect: {instead}")


def quote(value: str) -> str:
    """A string as Hydra's override grammar reads it, whatever it holds."""
    if re.fullmatch(r"[\w./@-]+", value, re.ASCII):
        return value
    # In Hydra's quotes a backslash is only special before a quote or at the very end.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def malformed(override: str) -> str:
    """One line on an override that Hydra's parser refuses, without the parser's own terms."""
    key, equals, value = override.partition("=")
    fault = f"put the value in quotation marks, in a shell \"{key}='…'\""
    if not (equals or key.startswith("~")) or not key.strip("+~ "):
        fault = "a setting is written KEY=VALUE"
    elif not re.fullmatch(r"[+~]*[\w./@:$-]+", key):
        fault = f"{key!r} is not the name of a setting"
    elif any(value.count(a) != value.count(b) for a, b in ("()", "[]", "{}")) or any(
        value.count(mark) % 2 for mark in "'\""
    ):
        fault = "a bracket or a quotation mark is not closed"
    return f"{override!r} cannot be read: {fault}"
