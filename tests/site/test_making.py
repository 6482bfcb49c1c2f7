"""The folders that ``fedapp site init`` makes, and those that it does not."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess

import pytest
import yaml

from fedapp.config.policy import STRICT, read_policy
from fedapp.site.certificates import (
    Authority,
    CertificateFault,
    days_left,
    names_of,
    pem,
    pem_key,
    read_certificate,
)
from fedapp.site.layout import ServerSite, SiteError, describe, read_party, read_server
from fedapp.site.making import Pki, Plan, make, renew


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "site"
    make(Plan(folder, "fed.example.org", 2, 8443, names=("10.1.2.3",)))
    return folder


def test_each_folder_can_be_read_by_whom_it_is_for_and_nobody_else(made):
    folders = [path for path in made.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in [made, *folders]} == {0o700}
    private = {path.name for path in made.rglob("*") if path.is_file() and path.stat().st_mode & 0o077 == 0}
    assert private == {"ca.key", "server.key", "party.key", "start.sh"}
    assert sorted(path.name for path in made.iterdir()) == [
        "README",
        "authority",
        "party-0",
        "party-1",
        "server",
    ]
    for party in ("party-0", "party-1"):
        text = (made / party / "party.key").read_bytes()
        others = [path for path in made.rglob("*") if path.is_file() and path.read_bytes() == text]
        assert others == [made / party / "party.key"]
    assert not list((made / "server").rglob("ca.key"))


def test_the_servers_certificate_names_its_host_and_how_its_owner_reaches_it(made):
    names = names_of(read_certificate(made / "server" / "server.crt"))
    assert set(names) == {"fed.example.org", "10.1.2.3", "localhost", "127.0.0.1", "::1"}


def test_a_folder_says_who_it_is_also_where_it_was_moved(made, tmp_path):
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-a", str(made / "party-1"), str(moved)], check=True)
    site = read_party(moved)
    assert (site.host, site.port, site.party, site.parties) == ("fed.example.org", 8443, 1, 2)
    policy = read_policy(str(site.policy))
    assert (policy.data, policy.output) == (str(moved / "data"), str(moved / "output"))
    assert policy.log == str(moved / "state" / "audit.jsonl")
    assert policy.memory == str(moved / "state" / "memory")


def test_the_policy_is_the_strict_one_with_folders(made):
    policy = read_policy(str(made / "party-0" / "party.yaml"))
    places = {"data", "output", "memory", "log"}
    assert {name: value for name, value in vars(policy).items() if name not in places} == {
        name: value for name, value in vars(STRICT).items() if name not in places
    }


def test_a_place_that_is_taken_is_left_as_it_is(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    with pytest.raises(SiteError, match="is there already; name a new folder with --out"):
        make(Plan(made, "fed.example.org", 2, 8443))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


@pytest.mark.parametrize(
    ("host", "parties", "port", "said"),
    [
        ("https://x", 2, 8443, "host='https://x' must be a DNS name or an IP address, without a port"),
        ("fed:8443", 2, 8443, "host='fed:8443' must be"),
        ("0.0.0.0", 2, 8443, "host='0.0.0.0' must be"),
        ("fed", 0, 8443, "parties=0 must be a whole number of at least 1"),
        ("fed", 5000, 8443, "parties=5000 must be at most 1000"),
        ("fed", 2, 70000, "port=70000 must be a port, from 1 to 65535"),
    ],
)
def test_settings_that_cannot_be_used_leave_nothing(tmp_path, host, parties, port, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make(Plan(tmp_path / "site", host, parties, port))
    assert list(tmp_path.iterdir()) == []


def test_an_authority_of_ones_own_signs_and_its_key_is_copied_nowhere(tmp_path):
    authority = Authority.new("hospital network")
    (tmp_path / "ca.crt").write_bytes(pem(authority.certificate))
    (tmp_path / "ca.key").write_bytes(pem_key(authority.key))
    make(Plan(tmp_path / "site", "fed", 1, 8443, pki=Pki(tmp_path / "ca.crt", tmp_path / "ca.key")))
    assert not list((tmp_path / "site").rglob("ca.key"))
    assert (tmp_path / "site" / "party-0" / "ca.crt").read_bytes() == pem(authority.certificate)
    read_certificate(tmp_path / "site/server/server.crt").verify_directly_issued_by(authority.certificate)


def test_a_server_certificate_of_ones_own_must_name_the_host(tmp_path):
    authority = Authority.new("hospital network")
    certificate, key = authority.issue(["fed", "localhost", "127.0.0.1"], 90)
    files = {"ca.crt": pem(authority.certificate), "server.crt": certificate, "server.key": key}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pki = Pki(tmp_path / "ca.crt", None, tmp_path / "server.crt", tmp_path / "server.key")
    make(Plan(tmp_path / "site", "fed", 1, 8443, pki=pki))
    assert (tmp_path / "site/server/server.crt").read_bytes() == certificate
    with pytest.raises(CertificateFault, match="is not good for elsewhere, only for fed"):
        make(Plan(tmp_path / "other", "elsewhere", 1, 8443, pki=pki))
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="give --ca-cert and --ca-key"):
        Pki(tmp_path / "ca.crt", None, tmp_path / "server.crt")


def test_a_renewed_certificate_has_the_same_names_and_another_key(tmp_path):
    make(Plan(tmp_path / "site", "fed", 1, 8443, names=("10.1.2.3",), days=2))
    site = read_server(tmp_path / "site" / "server")
    before, key = read_certificate(site.certificate), site.key.read_bytes()
    renew(tmp_path / "site", site, 100)
    after = read_certificate(site.certificate)
    assert set(names_of(after)) == set(names_of(before))
    assert days_left(after) > 99
    assert site.key.read_bytes() != key
    assert site.key.stat().st_mode & 0o077 == 0


def test_units_compose_files_and_scripts_are_what_their_programs_read(made):
    for role, folder in (("server", "server"), ("party", "party-1")):
        unit = configparser.ConfigParser(strict=False)
        unit.optionxform = str
        unit.read(made / folder / f"fedapp-{folder}.service")
        assert unit["Service"]["ExecStart"] == f"/etc/fedapp/{folder}/start.sh"
        service = yaml.safe_load((made / folder / "compose.yaml").read_text())["services"][folder]
        assert service["command"] == ["fedapp", "site", role, "/site"]
        start = made / folder / "start.sh"
        said = subprocess.run(
            [str(start)], env={**os.environ, "FEDAPP": "echo"}, capture_output=True, text=True
        )
        assert said.stdout.split() == ["site", role, str(made / folder)]
    assert yaml.safe_load((made / "server/compose.yaml").read_text())["services"]["server"]["ports"] == [
        "8443:8443"
    ]
    assert "ports" not in (made / "party-1/compose.yaml").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("folder", ["server", "party-1"])
def test_systemd_finds_nothing_to_say_of_a_unit(made, tmp_path, folder):
    name = f"fedapp-{folder}.service"
    unit = (made / folder / name).read_text()
    assert f"/etc/fedapp/{folder}" in unit
    (tmp_path / name).write_text(unit.replace(f"/etc/fedapp/{folder}", str(made / folder)))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nginx_passes_on_what_parties_call_and_nothing_else(made):
    text = (made / "server" / "nginx.conf").read_text()
    places = re.findall(r"location (\S+ ?\S*) \{\s+(\S+) ?(\S*?);", text)
    assert places == [
        ("~ ^/v1/fleet/[a-z-]+$", "proxy_pass", "https://127.0.0.1:8444"),
        ("/", "return", "404"),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": "x"}, "port='x' must be a port"),
        ({"control_port": 8443}, "control_port=8443 must not be the parties' port"),
        ({"gate": "open"}, "gate='open' must be one of: own, none"),
        ({"version": 2}, "version=2 is not 1"),
        ({"prot": 1}, "prot is not a setting; known: host, port"),
        ({"kind": "party"}, "is not a server's folder"),
        ({"kind": "x"}, "must say kind: server or kind: party"),
    ],
)
def test_a_mistake_in_site_yaml_is_one_line_that_names_it(tmp_path, change, said):
    tree = yaml.safe_load(describe(ServerSite(tmp_path, "fed", 8443, 8444, "0.0.0.0", "own", 2)))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(tree | change))
    with pytest.raises(SiteError, match=re.escape(said)) as caught:
        read_server(tmp_path)
    assert "\n" not in str(caught.value)
