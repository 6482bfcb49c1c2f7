"""What ``fedapp site`` and ``fedapp doctor`` take; what they do is imported when they do it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER = Path("site/server")
Act = Callable[[argparse.Namespace], int]


def add_site(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Add ``fedapp site`` with its actions."""
    about = "set up a federation between machines, and run its server, its parties and its runs"
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about.capitalize()} (docs/deployment.md).",
        epilog="example: fedapp site init --parties 3 --host fed.example.org",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_init(actions)
    _add_renew(actions)
    server = _add(actions, "server", "keep the server up, in this terminal", _server)
    server.add_argument("folder", nargs="?", type=Path, default=SERVER, metavar="DIR", help=f"({SERVER})")
    party = _add(actions, "party", "keep a party's node up, in this terminal", _party)
    party.add_argument("folder", type=Path, metavar="DIR", help="the party's folder")
    for one in (server, party):
        _add_dry_run(one)
    _add_submit(actions)
    _of_server(_add(actions, "status", "show parties and runs", _status))
    stop = _of_server(_add(actions, "stop", "stop a run", _stop))
    fetch = _of_server(_add(actions, "fetch", "copy the folder of a run that is over", _fetch))
    fetch.add_argument("--to", type=Path, default=Path("runs"), metavar="DIR", help="where to (runs)")
    for one in (stop, fetch):
        one.add_argument("run", nargs="?", metavar="RUN", help="its folder's name (the newest run)")


def add_doctor(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Add ``fedapp doctor``."""
    about = "look at this machine, or at a server's or party's folder, for what would keep a run from working"
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about.capitalize()}; says what to do. The exit code is 1 if there is a problem.",
        epilog="examples: fedapp doctor model=llama-3.2-1b; fedapp doctor party site/party-0",
        allow_abbrev=False,
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="WORD",
        help="nothing, or server DIR, or party DIR; settings of the run to come (model=…)",
    )
    parser.set_defaults(command=_doctor)


def _add_init(actions: argparse._SubParsersAction[Any]) -> None:
    parser = _add(actions, "init", "make certificates, keys and folders for a server and its parties", _init)
    parser.add_argument("--parties", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--host", required=True, metavar="NAME", help="by which parties reach the server")
    parser.add_argument("--port", type=int, default=8443, metavar="N", help="where they connect (8443)")
    parser.add_argument("--out", type=Path, default=Path("site"), metavar="DIR", help="folder to make (site)")
    parser.add_argument(
        "--name", action="append", default=[], metavar="NAME", help="a further name or address of the server"
    )
    parser.add_argument(
        "--days", type=int, default=365, metavar="N", help="validity of its certificate (365)"
    )
    own = parser.add_argument_group("a certificate authority of your own")
    own.add_argument("--ca-cert", type=Path, metavar="FILE", help="its certificate")
    own.add_argument(
        "--ca-key", type=Path, metavar="FILE", help="its key: the server's certificate is issued"
    )
    own.add_argument(
        "--server-cert", type=Path, metavar="FILE", help="the server's certificate, if there is one"
    )
    own.add_argument("--server-key", type=Path, metavar="FILE", help="and its key")


def _add_renew(actions: argparse._SubParsersAction[Any]) -> None:
    parser = _add(actions, "renew", "issue the server's certificate anew", _renew)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("site"), metavar="DIR", help="(site)")
    parser.add_argument("--days", type=int, default=365, metavar="N", help="validity (365)")


def _add_submit(actions: argparse._SubParsersAction[Any]) -> None:
    parser = _of_server(_add(actions, "submit", "start a run of all parties", _submit))
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from conf/config.yaml"
    )
    parser.add_argument(
        "--wait", action="store_true", help="show the run; the exit code is 0 only if it is complete"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run folder")
    _add_dry_run(parser)


def _add(
    actions: argparse._SubParsersAction[Any], name: str, about: str, act: Act
) -> argparse.ArgumentParser:
    described = f"{about[0].upper()}{about[1:]}."
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=described, allow_abbrev=False
    )
    parser.set_defaults(command=act)
    return parser


def _of_server(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--server", type=Path, default=SERVER, metavar="DIR", help=f"its folder ({SERVER})")
    return parser


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show Flower's plain commands and do nothing")


def _init(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import folders

    return folders.init(arguments)


def _renew(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import folders

    return folders.renew(arguments.folder, arguments.days)


def _server(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import nodes

    return nodes.server(arguments.folder, dry_run=arguments.dry_run)


def _party(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import nodes

    return nodes.party(arguments.folder, dry_run=arguments.dry_run)


def _submit(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import runs

    words = list(arguments.overrides)
    if arguments.resume is not None:
        words.append(f"resume={arguments.resume.expanduser().absolute()}")
    return runs.submit(arguments.server, words, wait=arguments.wait, dry_run=arguments.dry_run)


def _status(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import runs

    return runs.status(arguments.server)


def _stop(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import runs

    return runs.stop(arguments.server, arguments.run)


def _fetch(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import runs

    return runs.fetch(arguments.server, arguments.run, arguments.to)


def _doctor(arguments: argparse.Namespace) -> int:
    from fedapp.cli.deploy import doctor

    return doctor.examine(arguments.overrides)
