"""``fedapp site init`` and ``renew``: folders, certificates and keys."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedapp.cli.output import OK, USAGE, complain
from fedapp.site.layout import address, read_server
from fedapp.site.making import Pki, Plan, make
from fedapp.site.making import renew as renew_certificate


def init(arguments: argparse.Namespace) -> int:
    """Make a federation's folders; the exit code."""
    folder = arguments.out.expanduser().absolute()
    try:
        pki = Pki(arguments.ca_cert, arguments.ca_key, arguments.server_cert, arguments.server_key)
        names = tuple(arguments.name)
        plan = Plan(folder, arguments.host, arguments.parties, arguments.port, names, arguments.days, pki)
        make(plan)
    except (ValueError, OSError) as error:
        complain(str(error))
        return USAGE
    shown, last = arguments.out, arguments.parties - 1
    span = "party-0" if last == 0 else f"party-0 … party-{last}"
    print(f"{shown}: a federation of {arguments.parties} behind {address(plan.host, plan.port)}")
    if pki.authority is None:
        print(f"  {shown}/authority   keep it offline: its key vouches for the server")
    print(f"  {shown}/server      for the server:    fedapp site server {shown}/server")
    print(f"  {shown}/{span}, one to each party, over a safe way:")
    print(f"                     fedapp doctor party {shown}/party-0")
    print(f"                     fedapp site party {shown}/party-0")
    return OK


def renew(folder: Path, days: int) -> int:
    """Issue the server's certificate anew; the exit code."""
    folder = folder.expanduser().absolute()
    try:
        site = read_server(folder / "server")
        renew_certificate(folder, site, days)
    except (ValueError, OSError) as error:
        complain(str(error))
        return USAGE
    print(f"{site.certificate}: valid for {days} days; it counts from the server's next start")
    return OK
