"""Make the folders of a federation: who signs, the server's, one for each party."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedapp.core.checks import require_int
from fedapp.core.files import writing
from fedapp.site import commands, scripts
from fedapp.site.certificates import (
    LOCAL,
    Authority,
    look_at_server,
    names_of,
    new_party_key,
    pem,
    pem_key,
    read_certificate,
    write_private,
)
from fedapp.site.layout import FILE, PartySite, ServerSite, SiteError, describe

AUTHORITY = "authority"
SERVER_DAYS = 365
MOST_PARTIES = 1000


@dataclass(frozen=True)
class Pki:
    """Certificates that there are already.

    Attributes:
        authority: Certificate that parties trust; None: a new authority is made.
        authority_key: What signs the server's certificate; None where that is there, too.
        certificate: The server's; None: it is issued.
        key: The server's.
    """

    authority: Path | None = None
    authority_key: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        given = [self.authority, self.authority_key, self.certificate, self.key]
        kinds = [one is not None for one in given]
        allowed = ([False] * 4, [True, True, False, False], [True, False, True, True])
        if kinds not in allowed:
            raise ValueError(
                "give --ca-cert and --ca-key to have the server's certificate issued, or --ca-cert, "
                "--server-cert and --server-key if there is one, or none of them"
            )


@dataclass(frozen=True)
class Plan:
    """A federation to be made.

    Attributes:
        folder: Where; it must not exist.
        host: Name or address by which parties reach the server.
        parties: How many there are.
        port: Where parties connect.
        names: Further names and addresses of the server.
        days: How long the server's certificate is valid.
        pki: Certificates that there are already.
    """

    folder: Path
    host: str
    parties: int
    port: int
    names: tuple[str, ...] = ()
    days: int = SERVER_DAYS
    pki: Pki = Pki()

    def __post_init__(self) -> None:
        require_int("parties", self.parties, at_least=1)
        require_int("days", self.days, at_least=1)
        if self.parties > MOST_PARTIES:
            raise ValueError(f"parties={self.parties} must be at most {MOST_PARTIES}")

    @property
    def server(self) -> ServerSite:
        """The server's folder."""
        control = self.port + 1 if self.port < 65535 else self.port - 1
        bind = "::" if ":" in self.host else "0.0.0.0"
        return ServerSite(self.folder / "server", self.host, self.port, control, bind, "own", self.parties)

    def party(self, number: int) -> PartySite:
        """A party's folder."""
        return PartySite(self.folder / f"party-{number}", self.host, self.port, number, self.parties)


def make(plan: Plan) -> None:
    """Make all folders, or none.

    Raises:
        SiteError: If there is something at the place already.
        CertificateFault: If certificates that were given cannot be used.
        ValueError: If the plan has a setting that cannot be used.
        WriteError: If it cannot be written.
    """
    server = plan.server  # refuses settings before there is anything
    commands.quoted(str(plan.folder))
    if plan.folder.exists():
        raise SiteError(f"{plan.folder} is there already; name a new folder with --out")
    with writing(plan.folder):
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        plan.folder.mkdir(mode=0o700)
    try:
        with writing(plan.folder):
            _make_server(plan, server)
            for number in range(plan.parties):
                _make_party(plan.party(number), server)
            (plan.folder / "README").write_text(scripts.read_me(server), encoding="utf-8")
    except BaseException:
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def renew(folder: Path, site: ServerSite, days: int) -> None:
    """Issue the server's certificate anew, by the authority that the folder was made with.

    Args:
        folder: Of the federation, with ``authority/`` in it.
        site: The server's folder.
        days: How long the new one is valid.

    Raises:
        CertificateFault: If the authority's key is not there.
        WriteError: If it cannot be written; the old one is then still in place.
    """
    authority = Authority.read(folder / AUTHORITY / "ca.crt", folder / AUTHORITY / "ca.key")
    certificate, key = authority.issue(_names_of(site), days)
    with writing(site.certificate):
        new_key = site.key.with_name("server.key.new")
        new_key.unlink(missing_ok=True)
        write_private(new_key, key)
        new = site.certificate.with_name("server.crt.new")
        new.write_bytes(certificate)
        new_key.replace(site.key)
        new.replace(site.certificate)


def _names_of(site: ServerSite) -> list[str]:
    before = names_of(read_certificate(site.certificate))
    return list(dict.fromkeys([site.host, *before, *LOCAL]))


def _make_server(plan: Plan, site: ServerSite) -> None:
    site.folder.mkdir(mode=0o700)
    for folder in (site.folder / "parties", site.runs, site.state, site.home):
        folder.mkdir(mode=0o700)
    _certify(plan, site)
    (site.home / "config.toml").write_text(commands.connection(site), encoding="utf-8")
    _write(site, "server", "server")
    (site.folder / "nginx.conf").write_text(scripts.nginx(site), encoding="utf-8")


def _certify(plan: Plan, site: ServerSite) -> None:
    """Put the authority's and the server's certificate into the server's folder."""
    pki, names = plan.pki, list(dict.fromkeys([plan.host, *plan.names, *LOCAL]))
    if pki.certificate is not None:
        assert pki.authority is not None
        assert pki.key is not None
        look_at_server(pki.certificate, pki.key, pki.authority, [plan.host, commands.LOOPBACK])
        site.authority.write_bytes(pki.authority.read_bytes())
        site.certificate.write_bytes(pki.certificate.read_bytes())
        write_private(site.key, pki.key.read_bytes())
        return
    if pki.authority is not None:
        assert pki.authority_key is not None
        authority = Authority.read(pki.authority, pki.authority_key)
    else:
        authority = Authority.new(f"fedapp {plan.host}")
        folder = plan.folder / AUTHORITY
        folder.mkdir(mode=0o700)
        (folder / "ca.crt").write_bytes(pem(authority.certificate))
        write_private(folder / "ca.key", pem_key(authority.key))
    certificate, key = authority.issue(names, plan.days)
    site.authority.write_bytes(pem(authority.certificate))
    site.certificate.write_bytes(certificate)
    write_private(site.key, key)
    look_at_server(site.certificate, site.key, site.authority, [plan.host, commands.LOOPBACK])


def _make_party(site: PartySite, server: ServerSite) -> None:
    for folder in (site.folder, site.folder / "data", site.folder / "output", site.state, site.home):
        folder.mkdir(mode=0o700)
    site.authority.write_bytes(server.authority.read_bytes())
    private, public = new_party_key()
    write_private(site.key, private)
    server.public_key(site.party).write_bytes(public)
    site.policy.write_text(scripts.policy(site), encoding="utf-8")
    _write(site, "party", site.folder.name)


def _write(site: ServerSite | PartySite, role: str, what: str) -> None:
    start = site.folder / "start.sh"
    start.write_text(scripts.start_script(role), encoding="utf-8")
    start.chmod(0o700)
    texts = {
        FILE: describe(site),
        f"fedapp-{what}.service": scripts.unit(what),
        "compose.yaml": scripts.compose(role, site),
    }
    for name, text in texts.items():
        (site.folder / name).write_text(text, encoding="utf-8")
