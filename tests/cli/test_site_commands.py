"""``fedapp site`` and ``fedapp doctor`` on the command line: what they print, refuse and return."""

from __future__ import annotations

import importlib
import shlex
import socket
from pathlib import Path

import pytest

from fedapp.cli.main import main
from fedapp.core.files import ROOT
from fedapp.core.status import holding
from fedapp.site import serving
from fedapp.site.layout import read_party, read_server

HOST = ["--host", "localhost"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["site", "init", "--parties", "2", *HOST, "--port", str(free_port())]) == 0
    return tmp_path / "site"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def complaint(capsys):
    said = capsys.readouterr().err
    assert said.startswith("fedapp: error: "), said
    assert said.count("\n") == 1
    return said.removeprefix("fedapp: error: ").strip()


def shown(capsys):
    """Commands of a dry run, as a shell would read them."""
    text = capsys.readouterr().out.replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def test_init_says_who_gets_what(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["site", "init", "--parties", "2", *HOST]) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines())
    for word in ("site/authority", "site/server", "party-0 … party-1", "fedapp site party site/party-0"):
        assert word in said


def test_init_twice_is_refused_and_so_is_half_a_pki(folder, capsys):
    assert main(["site", "init", "--parties", "2", *HOST]) == 2
    assert "site is there already; name a new folder with --out" in complaint(capsys)
    words = ["--out", "other", "--ca-cert", "site/server/ca.crt"]
    assert main(["site", "init", "--parties", "2", *HOST, *words]) == 2
    assert complaint(capsys).startswith("give --ca-cert and --ca-key to have")


def test_a_dry_run_shows_flowers_own_commands_with_every_path(folder, capsys):
    site = read_server(folder / "server")
    capsys.readouterr()
    assert main(["site", "server", "--dry-run"]) == 0
    link, *keys, _ = shown(capsys)
    assert link[0] == f"FLWR_HOME={site.home}"
    after = link[link.index("flower-superlink") :]
    assert after[1:5] == ["--host", "127.0.0.1", "--port", str(site.control_port)]
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(after)
    assert [words[4] for words in keys] == [str(site.public_key(party)) for party in (0, 1)]
    assert main(["site", "party", "site/party-1", "--dry-run"]) == 0
    quick, plain = shown(capsys)
    named = plain[plain.index("--node-config") + 1]
    assert named == f"partition-id=1 num-partitions=2 policy='{folder}/party-1/party.yaml'"
    assert "flower-supernode" in plain
    assert quick[quick.index("--superlink") :] == plain[plain.index("--superlink") :]
    program = Path(quick[quick.index("--superlink") - 1])
    assert program == ROOT / "fedapp" / "engines" / "flower" / "supernode.py"
    assert program.is_file()
    assert main(["site", "submit", "--dry-run", "method=fedavg"]) == 0
    (run,) = shown(capsys)
    assert f"num_clients=2 runs_dir={site.runs} method=fedavg" in run[-1]
    old = site.runs / "old"
    assert main(["site", "submit", "--dry-run", "--resume", str(old)]) == 2
    assert f"resume={old} holds no run" in complaint(capsys)
    assert not old.exists()
    assert list(site.runs.iterdir()) == []


def test_flower_itself_accepts_what_a_dry_run_shows(folder, capsys, monkeypatch):
    """The options exist in the Flower that is installed: its own parsers take them."""
    superlink = importlib.import_module("flwr.superlink.cli.flower_superlink")
    supernode = importlib.import_module("flwr.supernode.cli.flower_supernode")
    capsys.readouterr()
    main(["site", "server", "--dry-run"])
    link = shown(capsys)[0]
    parsed = superlink._parse_args_run_superlink().parse_args(link[link.index("flower-superlink") + 1 :])
    assert (parsed.host, parsed.enable_supernode_auth) == ("127.0.0.1", True)
    assert not parsed.runtime_dependency_install
    main(["site", "party", "site/party-0", "--dry-run"])
    node = shown(capsys)[1]
    found = supernode._parse_args_run_supernode().parse_args(node[node.index("flower-supernode") + 1 :])
    assert found.superlink == f"localhost:{read_party(folder / 'party-0').port}"


def test_one_setting_chooses_flowers_own_node(folder, capsys):
    file = folder / "party-0" / "site.yaml"
    text = file.read_text()
    assert "supernode: quick\n" in text
    before = text.replace("supernode: quick\n", "")  # of a site that was made before there was a choice
    for said, first in (
        (text, "supernode.py"),
        (before, "supernode.py"),
        (before + "supernode: flower\n", "flower-supernode"),
    ):
        file.write_text(said)
        capsys.readouterr()
        assert main(["site", "party", "site/party-0", "--dry-run"]) == 0
        commands = shown(capsys)
        assert Path(commands[0][commands[0].index("--superlink") - 1]).name == first
        assert len(commands) == (1 if first == "flower-supernode" else 2)
    file.write_text(before + "supernode: slow\n")
    assert main(["site", "party", "site/party-0"]) == 2
    assert "supernode='slow'" in complaint(capsys)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["server", "nowhere"],
            2,
            "nowhere/site.yaml cannot be read: No such file or directory; make it with",
        ),
        (["party", "site/server"], 2, "is not a party's folder"),
        (["submit", "--server", "site/party-0"], 2, "is not a server's folder"),
        (["submit"], 2, "party 0 is not registered: start the server first"),
        (["status"], 1, "party 0 is not registered"),
        (["fetch"], 2, "no run was submitted from"),
        (["stop", "x"], 1, "no run was submitted from"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, capsys, words, code, said):
    capsys.readouterr()
    assert main(["site", *words]) == code
    assert said in complaint(capsys)


def test_a_server_whose_control_port_is_taken_says_so(folder, capsys):
    site = read_server(folder / "server")
    with socket.create_server(("127.0.0.1", site.control_port)):
        assert main(["site", "server"]) == 1
    assert f"control_port={site.control_port} of this machine is taken by another" in complaint(capsys)


def test_a_server_whose_port_for_parties_is_taken_says_so(folder, capsys):
    site = read_server(folder / "server")
    with socket.create_server(("0.0.0.0", site.port)):
        assert main(["site", "server"]) == 1
    assert f"port 0.0.0.0:{site.port} cannot be opened" in complaint(capsys)


def test_two_servers_or_parties_in_one_folder_are_one_too_many(folder, capsys):
    site = read_server(folder / "server")
    with holding(site.state):
        assert main(["site", "server"]) == 1
    assert complaint(capsys).startswith("another fedapp works on")


def test_a_party_ends_with_one_line_where_its_key_or_policy_cannot_be_used(folder, capsys, monkeypatch):
    monkeypatch.setattr(serving, "shake_hands", lambda *_: pytest.fail("asked the server"))
    site = read_party(folder / "party-0")
    site.policy.write_text("data: nowhere\n")
    assert main(["site", "party", "site/party-0"]) == 1
    assert f"data='{site.folder}/nowhere' must be a folder that is there" in complaint(capsys)
    site.key.chmod(0o640)
    assert main(["site", "party", "site/party-0"]) == 1
    assert complaint(capsys) == f"{site.key} can be read by others: chmod 600 {site.key}"


def test_doctor_says_what_to_do_and_returns_1_if_there_is_a_problem(folder, capsys):
    assert main(["doctor", "server", "site/server"]) == 0
    said = capsys.readouterr().out
    assert "problem" not in said
    (folder / "server" / "server.key").chmod(0o644)
    assert main(["doctor", "server", "site/server"]) == 1
    said = capsys.readouterr().out
    assert f"→ chmod 600 {folder}/server/server.key" in said
    assert said.rstrip().endswith("1 problem")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve"], "doctor serve does not exist; known: server DIR, party DIR, KEY=VALUE"),
        (["party"], "doctor party needs the folder: fedapp doctor party DIR"),
        (["server", "site/server", "x=1"], "doctor server takes a folder only, not 'x=1' as well"),
        (["party", "site/server"], "is not a party's folder"),
    ],
)
def test_doctor_refuses_words_that_mean_nothing(folder, capsys, words, said):
    capsys.readouterr()
    assert main(["doctor", *words]) == 2
    assert said in complaint(capsys)
