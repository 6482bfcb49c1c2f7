"""A server and a party at work: Flower's programs kept up until somebody ends this one."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

from fedapp.config.policy import PolicyError, read_policy
from fedapp.core.files import writing
from fedapp.core.status import holding_alone
from fedapp.engines.closing import uninterrupted
from fedapp.site import commands
from fedapp.site.certificates import look_at_server, shake_hands
from fedapp.site.control import Control, ControlFault
from fedapp.site.gate import open_gate
from fedapp.site.layout import OWN, PartySite, ServerSite, SiteError, address
from fedapp.site.supervisor import WAITS, Program, Say, Waits, explain, free_port, is_taken, keep_up

POLL_SECONDS = 0.2
SOON_DAYS = 30.0


def serve(site: ServerSite, say: Say, waits: Waits = WAITS) -> str:
    """Keep a SuperLink and the parties' port up; parties' keys are registered as it starts.

    Args:
        site: The server's folder.
        say: Called with one line for what happens.
        waits: Between starts of the SuperLink.

    Returns:
        Why it cannot go on.

    Raises:
        SiteError: If the folder cannot be used, a port is taken, or a key is refused.
        CertificateFault: If the server's certificate cannot be used.
        GateFault: If the parties' port cannot be opened.
    """
    left = look_at_server(site.certificate, site.key, site.authority, [site.host, commands.LOOPBACK])
    if left < SOON_DAYS:
        say(f"the server's certificate expires in {left:.0f} days: fedapp site renew")
    with _alone(site), open_gate(site) if site.gate == OWN else nullcontext():
        if is_taken(commands.LOOPBACK, site.control_port):
            raise SiteError(
                f"control_port={site.control_port} of this machine is taken by another program: end that, or "
                f"choose another in {site.folder / 'site.yaml'}"
            )

        def run() -> tuple[int, str]:
            program = Program(commands.superlink(site), commands.environment(site.home), site.state, site.log)
            return _served(site, program, say)

        return keep_up("the SuperLink", run, say, waits)


def take_part(site: PartySite, say: Say, waits: Waits = WAITS) -> str:
    """Keep a party's SuperNode up.

    Args:
        site: The party's folder.
        say: Called with one line for what happens.
        waits: Between starts.

    Returns:
        Why it cannot go on.

    Raises:
        SiteError: If the folder cannot be used, its policy included.
        CertificateFault: If the server is not the one that this folder was made for.
    """
    check_party(site)
    with _alone(site):
        try:
            shake_hands(site.host, site.port, site.authority)
        except OSError as error:  # SuperNodes wait for their server
            reason = error.strerror or str(error)
            say(f"the server {address(site.host, site.port)} does not answer yet ({reason}); waiting")

        def run() -> tuple[int, str]:
            command = commands.supernode(site, free_port())
            program = Program(command, commands.environment(site.home), site.state, site.log)
            return _ended(program, program.start)

        say(f"party {site.party} of {site.parties}, log: {site.log}")
        return keep_up("the SuperNode", run, say, waits)


def check_party(site: PartySite) -> None:
    """See that a party's files are there and its policy can be used.

    Raises:
        SiteError: If not.
    """
    for path in (site.authority, site.key):
        if not path.is_file():
            raise SiteError(f"{path} is missing")
    if site.key.stat().st_mode & 0o077:
        raise SiteError(f"{site.key} can be read by others: chmod 600 {site.key}")
    try:
        read_policy(str(site.policy))
    except PolicyError as error:
        raise SiteError(str(error)) from None


def _served(site: ServerSite, program: Program, say: Say) -> tuple[int, str]:
    def start() -> None:
        control = Control(site)
        control.begin()
        program.start()
        if not _listens(site, program):
            return
        try:
            new = control.register_parties()
        except (ControlFault, subprocess.SubprocessError) as fault:
            raise SiteError(str(fault)) from None
        if new:
            say(f"registered the keys of {_listed(new)}")
        where = address(site.host, site.port)
        say(f"ready: {site.parties} parties at {where}, runs by `fedapp site submit`, log: {site.log}")

    return _ended(program, start)


def _ended(program: Program, start: Callable[[], None]) -> tuple[int, str]:
    """Exit code of a program, and why it ended."""
    try:
        start()
        code = program.wait()
    finally:
        with uninterrupted():
            program.end()
    assert code is not None
    return explain(code, program.last_words())


def _listens(site: ServerSite, program: Program) -> bool:
    """Wait until a program listens, however busy the machine is; whether it did not end before."""
    while program.wait(POLL_SECONDS) is None:
        with suppress(OSError), socket.create_connection((commands.LOOPBACK, site.control_port), 1.0):
            return True
    return False


def _alone(site: ServerSite | PartySite) -> AbstractContextManager[None]:
    """Hold the folder, so that nobody starts the same node twice.

    Raises:
        SiteError: If another process has it.
    """
    with writing(site.state):
        site.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return holding_alone(site.state)
    except BlockingIOError:
        raise SiteError(f"another fedapp works on {site.folder} already") from None


def _listed(parties: list[int]) -> str:
    return f"part{'y' if len(parties) == 1 else 'ies'} {', '.join(map(str, parties))}"
