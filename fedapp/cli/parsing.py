"""How a subcommand is declared: its name, one line on it, what it calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Act = Callable[[argparse.Namespace], int]


def add_command(
    commands: argparse._SubParsersAction[Any],
    name: str,
    about: str,
    act: Act | None = None,
    more: str = "",
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """Declare a subcommand.

    Args:
        commands: Where it belongs.
        name: As one types it.
        about: What it does, in the list of commands; its own help begins with it.
        act: What it calls; None for one with actions of its own.
        more: What its own help adds to that.
        epilog: An example.

    Returns:
        Its parser, for its arguments.
    """
    described = f"{about[0].upper()}{about[1:]}{more}"
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=described, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(show_help=parser.format_help)  # of a nested command the inner one's
    if act is not None:
        parser.set_defaults(command=act)
    return parser
