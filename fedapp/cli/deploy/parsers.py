"""What ``fedapp site`` and ``fedapp doctor`` take; what they do is imported when they do it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedapp.cli.parsing import add_command

SERVER = Path("site/server")


def add_site(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Add ``fedapp site`` with its actions."""
    about = "set up a federation between machines, and run its server, its parties and its runs"
    parser = add_command(
        commands,
        name,
        about,
        more=" (docs/deployment.md).",
        epilog="example: fedapp site init --parties 3 --host fed.example.org",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_init(actions)
    _add_renew(actions)
    server = add_command(actions, "server", "keep the server up, in this terminal", _server, more=".")
    server.add_argument("folder", nargs="?", type=Path, default=SERVER, metavar="DIR", help=f"({SERVER})")
    party = add_command(actions, "party", "keep a party's node up, in this terminal", _party, more=".")
    party.add_argument("folder", type=Path, metavar="DIR", help="the party's folder")
    for one in (server, party):
        _add_dry_run(one)
    _add_submit(actions)
    _of_server(add_command(actions, "status", "show parties and runs", _status, more="."))
    stop = _of_server(add_command(actions, "stop", "stop a run", _stop, more="."))
    fetch = _of_server(
        add_command(actions, "fetch", "copy the folder of a run that is over", _fetch, more=".")
    )
    fetch.add_argument("--to", type=Path, default=Path("runs"), metavar="DIR", help="where to (runs)")
    for one in (stop, fetch):
        one.add_argument("run", nargs="?", metavar="RUN", help="its folder's name (the newest run)")


def add_doctor(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Add ``fedapp doctor``."""
    about = "look at this machine, or at a server's or party's folder, for what would keep a run from working"
    parser = add_command(
        commands,
        name,
        about,
        _doctor,
        more="; says what to do. The exit code is 1 if there is a problem.",
        epilog="examples: fedapp doctor model=llama-3.2-1b; fedapp doctor party site/party-0",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="WORD",
        help="nothing, or server DIR, or party DIR; settings of the run to come (model=…)",
    )


def _add_init(actions: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        actions, "init", "make certificates, keys and folders for a server and its parties", _init, more="."
    )
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
    parser = add_command(actions, "renew", "issue the server's certificate anew", _renew, more=".")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("site"), metavar="DIR", help="(site)")
    parser.add_argument("--days", type=int, default=365, metavar="N", help="validity (365)")


def _add_submit(actions: argparse._SubParsersAction[Any]) -> None:
    parser = _of_server(add_command(actions, "submit", "start a run of all parties", _submit, more="."))
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ from conf/config.yaml"
    )
    parser.add_argument(
        "--wait", action="store_true", help="show the run; the exit code is 0 only if it is complete"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run folder")
    _add_dry_run(parser)


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
