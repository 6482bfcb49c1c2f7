"""Which files a federation's folders hold, and what their ``site.yaml`` says.

::

    site/authority/     ca.crt, ca.key              who signs; belongs on no server
    site/server/        site.yaml, server.crt …     goes to the server
    site/party-0/       site.yaml, party.key …      goes to party 0, and to nobody else
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fedapp.core.checks import require_choice, require_int, show_value

FILE = "site.yaml"
VERSION = 1
SERVER, PARTY = "server", "party"
OWN, NONE = "own", "none"
QUICK, FLOWER = "quick", "flower"
DEFAULT_PORT = 8443


class SiteError(ValueError):
    """A folder of a federation cannot be used; the text is one line."""


@dataclass(frozen=True)
class ServerSite:
    """A server's folder.

    Attributes:
        folder: Absolute path.
        host: Name or address by which parties reach the server.
        port: Where parties connect.
        control_port: Where runs are submitted; on 127.0.0.1 alone.
        bind: Address that the parties' port is opened on.
        gate: Who lets parties through, and nobody else: ``own``: fedapp; ``none``: a proxy (nginx.conf).
        parties: How many there are.
    """

    folder: Path
    host: str
    port: int
    control_port: int
    bind: str
    gate: str
    parties: int

    authority = property(lambda self: self.folder / "ca.crt")
    certificate = property(lambda self: self.folder / "server.crt")
    key = property(lambda self: self.folder / "server.key")
    runs = property(lambda self: self.folder / "runs")
    state = property(lambda self: self.folder / "state")
    home = property(lambda self: self.state / "flower")
    log = property(lambda self: self.state / "superlink.log")
    database = property(lambda self: self.state / "flower.db")
    nodes = property(lambda self: self.state / "nodes.json")
    submissions = property(lambda self: self.state / "submissions.jsonl")

    def public_key(self, party: int) -> Path:
        """A party's public key."""
        return self.folder / "parties" / f"party-{party}.pub"

    def __post_init__(self) -> None:
        require_port("port", self.port)
        require_port("control_port", self.control_port)
        if self.port == self.control_port:
            raise ValueError(f"control_port={self.control_port} must not be the parties' port")
        require_int("parties", self.parties, at_least=1)
        require_choice("gate", self.gate, (OWN, NONE))
        require_host(self.host)


@dataclass(frozen=True)
class PartySite:
    """A party's folder.

    Attributes:
        folder: Absolute path.
        host: The server's name or address.
        port: The server's port for parties.
        party: The party's number, which is its client's.
        parties: How many there are.
        trusted_entities: File for Flower's ``--trusted-entities``; None: code need not be signed.
        supernode: Which program is the node: ``quick``: Flower's SuperNode with shorter waits
            (``fedapp.engines.flower.supernode``); ``flower``: ``flower-supernode`` itself.
    """

    folder: Path
    host: str
    port: int
    party: int
    parties: int
    trusted_entities: str | None = None
    supernode: str = QUICK

    authority = property(lambda self: self.folder / "ca.crt")
    key = property(lambda self: self.folder / "party.key")
    policy = property(lambda self: self.folder / "party.yaml")
    state = property(lambda self: self.folder / "state")
    home = property(lambda self: self.state / "flower")
    log = property(lambda self: self.state / "supernode.log")

    def __post_init__(self) -> None:
        require_port("port", self.port)
        require_int("parties", self.parties, at_least=1)
        require_int("party", self.party, at_least=0)
        if self.party >= self.parties:
            raise ValueError(f"party={self.party} must be below parties={self.parties}")
        require_choice("supernode", self.supernode, (QUICK, FLOWER))
        require_host(self.host)


Site = TypeVar("Site", ServerSite, PartySite)


def read_server(folder: Path) -> ServerSite:
    """Read a server's folder.

    Raises:
        SiteError: If it is none.
    """
    return _read(folder, ServerSite, SERVER)


def read_party(folder: Path) -> PartySite:
    """Read a party's folder.

    Raises:
        SiteError: If it is none.
    """
    return _read(folder, PartySite, PARTY)


def kind_of(folder: Path) -> str:
    """Whether a folder is a ``server``'s or a ``party``'s.

    Raises:
        SiteError: If it is neither.
    """
    return str(_tree(folder)["kind"])


def describe(site: ServerSite | PartySite) -> str:
    """What ``site.yaml`` holds, as text."""
    kind = SERVER if isinstance(site, ServerSite) else PARTY
    facts = {key: value for key, value in asdict(site).items() if key != "folder"}
    return yaml.safe_dump({"kind": kind, "version": VERSION, **facts}, sort_keys=False)


def require_port(name: str, value: Any) -> None:
    """Refuse what is no TCP port.

    Raises:
        ValueError: In one line that begins with ``name``.
    """
    if type(value) is not int or not 1 <= value <= 65535:
        raise ValueError(f"{name}={show_value(value)} must be a port, from 1 to 65535")


def require_host(host: Any) -> None:
    """Refuse what is neither a DNS name nor an IP address.

    Raises:
        ValueError: In one line that begins with ``host``.
    """
    text = host if isinstance(host, str) else ""
    label = r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
    named = (
        not re.fullmatch(r"[\d.]+", text)
        and len(text) <= 253
        and re.fullmatch(rf"{label}(\.{label})*\.?", text, re.IGNORECASE)
    )
    if not named and not _is_address(text):
        raise ValueError(f"host={show_value(host)} must be a DNS name or an IP address, without a port")


def address(host: str, port: int) -> str:
    """``host:port``, in brackets where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified  # 0.0.0.0 is where one listens
    except ValueError:
        return False


def _tree(folder: Path) -> Mapping[str, Any]:
    path = folder / FILE
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SiteError(f"{path} cannot be read: {error.strerror}; make it with: fedapp site init") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SiteError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or tree.get("kind") not in (SERVER, PARTY):
        raise SiteError(f"{path} must say kind: {SERVER} or kind: {PARTY}")
    return tree


def _read(folder: Path, site: type[Site], kind: str) -> Site:
    folder = folder.expanduser().absolute()
    tree = dict(_tree(folder))
    if tree.pop("kind") != kind:
        raise SiteError(f"{folder} is not a {kind}'s folder, says its {FILE}")
    if (version := tree.pop("version", None)) != VERSION:
        raise SiteError(
            f"{folder / FILE}: version={show_value(version)} is not {VERSION}, which this fedapp reads"
        )
    known = [name for name in site.__dataclass_fields__ if name != "folder"]
    for key in tree:
        if key not in known:
            raise SiteError(f"{folder / FILE}: {key} is not a setting; known: {', '.join(known)}")
    try:
        return site(folder=folder, **tree)
    except TypeError:
        missing = [name for name in known if name not in tree]
        raise SiteError(f"{folder / FILE} lacks {', '.join(missing)}") from None
    except ValueError as error:
        raise SiteError(f"{folder / FILE}: {error}") from None
