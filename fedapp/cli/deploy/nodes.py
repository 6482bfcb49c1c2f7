"""``fedapp site server`` and ``party``: a node kept up in this terminal, or by systemd."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedapp.cli.output import FAILED, OK, USAGE, complain
from fedapp.core.errors import printable
from fedapp.site import commands
from fedapp.site.gate import GateFault
from fedapp.site.layout import FILE, FLOWER, OWN, address, read_party, read_server
from fedapp.site.serving import serve, take_part
from fedapp.site.supervisor import until_told_to_end

# Of a dry run: the real one takes a port that is free when it starts.
SOME_PORT = 9094


def server(folder: Path, *, dry_run: bool) -> int:
    """Keep a server up until told to end; the exit code."""
    try:
        site = read_server(folder)
    except ValueError as error:
        complain(str(error))
        return USAGE
    if not dry_run:
        return _kept(lambda: serve(site, _say))
    home = commands.variables(site.home)
    print(commands.as_shell(commands.superlink(site), home))
    print("\n# once it listens, for each party whose key is new:")
    for party in range(site.parties):
        print(commands.as_shell(commands.register(site, party), {"FLWR_HOME": str(site.home)}))
    where = address(site.bind, site.port)
    if site.gate == OWN:
        print(f"\n# and {where} passes /v1/fleet/ on to it, nothing else, as this does:")
        print(f"nginx -c …   # include {site.folder / 'nginx.conf'}")
    else:
        print(f"\n# a proxy of yours serves {where}: {site.folder / 'nginx.conf'}")
    return OK


def party(folder: Path, *, dry_run: bool) -> int:
    """Keep a party's node up until told to end; the exit code."""
    try:
        site = read_party(folder)
    except ValueError as error:
        complain(str(error))
        return USAGE
    if dry_run:
        print(commands.as_shell(commands.supernode(site, SOME_PORT), commands.variables(site.home)))
        if site.supernode != FLOWER:
            print(f"\n# Flower's own, which {site.folder / FILE} chooses by supernode: {FLOWER}:")
            plain = commands.supernode(replace(site, supernode=FLOWER), SOME_PORT)
            print(commands.as_shell(plain, commands.variables(site.home)))
        return OK
    return _kept(lambda: take_part(site, _say))


def _kept(work: Callable[[], str]) -> int:
    with until_told_to_end():
        try:
            complain(work())
        except (ValueError, OSError, GateFault) as error:
            complain(str(error))
        return FAILED
    _say("stopped")
    return OK


def _say(text: str) -> None:
    print(printable(f"{time.strftime('%H:%M:%S')} {text}"), flush=True)
