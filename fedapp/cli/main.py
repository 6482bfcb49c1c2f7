"""The ``fedapp`` command. To add a subcommand: one module, one ``_add_…`` function (on runs that have
ended: in ``runs/commands.py``; for adapters: in ``adapters/commands.py``), one line in ``COMMANDS``.

Heavy modules are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import fedapp
from fedapp.cli.adapters.commands import ADAPTER_COMMANDS
from fedapp.cli.deploy.parsers import add_doctor, add_site
from fedapp.cli.output import OK, USAGE, complain, leave_quietly, nearest, told_in_one_line
from fedapp.cli.parsing import add_command
from fedapp.cli.preview import add_preview_options, preview
from fedapp.cli.runs.commands import add_compare, add_report, add_results

HELP = ("-h", "--help")
Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with status 2."""
        _complain_of_usage(message, self.prog)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes them from ``sys.argv``.

    Returns:
        0 if all went well, 1 if a run failed, 2 for wrong usage or configuration, 128 plus the
        signal's number if interrupted (130 for Ctrl-C; 141 if whoever reads the output has gone).
    """
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()  # here, where a broken pipe can still be told from a fault
    except BrokenPipeError:
        return leave_quietly()


def _main(arguments: Sequence[str] | None) -> int:
    parser = _make_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        parser.error(f"unknown command {words[0]!r}{nearest(words[0], list(COMMANDS))}")
    if words and words[0].startswith("-") and words[0] not in (*HELP, "--version"):
        parser.error(f"unknown argument {words[0]!r}{nearest(words[0], ['--help', '--version'])}")
    known, rest = parser.parse_known_args(words)
    for word in rest:
        # argparse stops to collect words behind an option: "run a=1 --multirun b=2".
        if word.startswith("-") or not hasattr(known, "overrides"):
            options = sorted(re.findall(r"^  (?:-\w(?: \S+)?, )?(--[a-z-]+)", known.show_help(), re.M))
            _complain_of_usage(f"unknown argument {word!r}{nearest(word, options)}", f"fedapp {words[0]}")
        known.overrides.append(word)
    command: Command = known.command
    try:
        return command(known)
    except KeyboardInterrupt as interrupt:
        complain("interrupted")
        return int(interrupt.args[0]) if interrupt.args else 130


def _complain_of_usage(message: str, program: str) -> NoReturn:
    complain(f"{message} (see: {program} --help)")
    raise SystemExit(USAGE)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fedapp", description=fedapp.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fedapp {fedapp.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name, add in COMMANDS.items():
        add(name, commands)
    return parser


def _add_run(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    about = "train federatedly as configured"
    parser = add_command(
        commands,
        name,
        about,
        _run,
        more="; ends with a table per client and a run folder.",
        epilog="example: fedapp run method=fedreft benchmark=embedded num_rounds=3 engine=local",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from conf/config.yaml"
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="one run for each combination of KEY=A,B values"
    )
    add_preview_options(parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run or arguments.cfg is not None:
        return preview(arguments.overrides, arguments.cfg, sys.stdout, multirun=arguments.multirun)
    if arguments.multirun:
        from fedapp.cli.sweeps.sweep import sweep

        return sweep(arguments.overrides)
    from fedapp.cli.run import run

    return run(arguments.overrides)


def _add_budget(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    about = "count trainable parameters and payload bytes of a run before it starts, without weights"
    parser = add_command(
        commands,
        name,
        about,
        _budget,
        more="; KEY=A,B gives a row for each.",
        epilog="example: fedapp budget model=llama-3.2-3b method=fedreft,fedit num_clients=5",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from conf/config.yaml"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object per row instead of a table")
    assumed = parser.add_argument_group("assumed of answers, for methods whose clients send these")
    assumed.add_argument("--prompts", type=int, default=1000, metavar="N", help="public prompts (1000)")
    assumed.add_argument("--answer-tokens", type=float, default=64.0, metavar="N", help="mean length (64)")
    assumed.add_argument("--token-bytes", type=float, default=4.0, metavar="N", help="bytes of a token (4)")


def _budget(arguments: argparse.Namespace) -> int:
    from fedapp.cli.budget import budget
    from fedapp.core.method import AnswerSizes

    try:
        answers = AnswerSizes(arguments.prompts, arguments.answer_tokens, arguments.token_bytes)
    except ValueError as error:
        complain(str(error))
        return USAGE
    return budget(arguments.overrides, sys.stdout, as_json=arguments.json, answers=answers)


def _add_list(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    about = "show what can be chosen: methods, adapters, models, benchmarks, …"
    parser = add_command(commands, name, about, _list)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="methods, adapters, … (default: all)")


def _list(arguments: argparse.Namespace) -> int:
    from fedapp.cli.list import print_choices

    try:
        print_choices(arguments.kinds, sys.stdout)
    except ValueError as error:
        complain(str(error))
        return USAGE
    return OK


def _add_tasks(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    about = "list, show or remove calibrated tasks that runs with method.store_dir have kept"
    parser = add_command(commands, name, about, _tasks)
    parser.add_argument("action", metavar="ACTION", help="list, show or remove")
    parser.add_argument("folder", metavar="FOLDER", help="the runs' method.store_dir")
    parser.add_argument("task", nargs="?", metavar="TASK", help="a task's id, for show and remove")


def _tasks(arguments: argparse.Namespace) -> int:
    from fedapp.cli.tasks import manage

    folder = Path(arguments.folder)
    return told_in_one_line(lambda: manage(arguments.action, folder, arguments.task, sys.stdout))


def _add_tune(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    about = "try the same step sizes for every method, choose by validation scores, keep the choice"
    parser = add_command(
        commands,
        name,
        about,
        _tune,
        more="; KEY=A,B tunes each, seed=A,B averages.",
        epilog="example: fedapp tune method=fedit,ffa_lora engine=local --to results/tuning/embedded.json",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings that differ from conf/experiment/tune.yaml",
    )
    parser.add_argument("--to", type=Path, metavar="FILE", required=True, help="results/tuning/NAME.json")


def _tune(arguments: argparse.Namespace) -> int:
    from fedapp.cli.tune import tune

    return tune(arguments.overrides, arguments.to)


COMMANDS = {
    "run": _add_run,
    "budget": _add_budget,
    "list": _add_list,
    "compare": add_compare,
    "report": add_report,
    "results": add_results,
    "tune": _add_tune,
    "tasks": _add_tasks,
    "site": add_site,
    "doctor": add_doctor,
    **ADAPTER_COMMANDS,
}
