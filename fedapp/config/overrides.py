"""Single overrides: how they are written, and what is wrong with one."""

from __future__ import annotations

import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


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
