"""A server's folder: its certificate, keys and ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from fedapp.core.status import is_held
from fedapp.site import commands
from fedapp.site.certificates import CertificateFault, look_at_server
from fedapp.site.examination.finding import Finding, validity
from fedapp.site.examination.machine import disk, versions
from fedapp.site.layout import OWN, ServerSite
from fedapp.site.supervisor import is_taken


def of_server(site: ServerSite) -> Iterator[Finding]:
    """A server's certificate, keys and ports."""
    yield from versions()
    try:
        left = look_at_server(site.certificate, site.key, site.authority, [site.host, commands.LOOPBACK])
        yield validity("the server's certificate", left)
    except CertificateFault as fault:
        yield Finding(str(fault), "fedapp site renew issues another")
    yield _private(site.key)
    missing = [party for party in range(site.parties) if not site.public_key(party).is_file()]
    if missing:
        yield Finding(f"{site.public_key(missing[0])} is missing", "copy it from where the site was made")
    else:
        yield Finding(f"keys of {site.parties} parties")
    yield from _ports(site)
    yield from disk(site.folder)


def _private(path: Path) -> Finding:
    if not path.is_file():
        return Finding(f"{path} is missing", "copy it from where the site was made")
    if path.stat().st_mode & 0o077:
        return Finding(f"{path} can be read by others", f"chmod 600 {path}")
    return Finding(f"{path.name} can be read by its owner alone")


def _ports(site: ServerSite) -> Iterator[Finding]:
    """The ports are free, or the server's own; and the control port is closed to the network."""
    for name, host, port in (
        ("port", site.bind, site.port),
        ("control_port", commands.LOOPBACK, site.control_port),
    ):
        if is_taken(host, port):
            if is_held(site.state):
                yield Finding(f"{name}={port} is this server's, which runs")
                continue
            remedy = f"end the program that has it, or change {name} in {site.folder / 'site.yaml'}"
            yield Finding(f"{name}={port} is taken", remedy)
        else:
            yield Finding(f"{name}={port} is free")
    if open_at := [one for one in _own_addresses() if _answers(one, site.control_port)]:
        yield Finding(
            f"control_port={site.control_port} answers at {open_at[0]}: whoever reaches it may submit "
            "runs and register keys",
            "let no proxy or forwarding lead to it; close it with the firewall",
        )
    else:
        yield Finding(f"control_port={site.control_port} is closed to the network")
    if site.gate != OWN:
        remedy = f"see that it passes on /v1/fleet/ alone ({site.folder / 'nginx.conf'})"
        yield Finding("gate: none, a proxy of yours serves the parties", remedy, note=True)


def _own_addresses() -> list[str]:
    found = [
        one.address for many in psutil.net_if_addrs().values() for one in many if one.family == socket.AF_INET
    ]
    return [one for one in found if not one.startswith("127.")]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1.0):
            return True
    except OSError:
        return False
