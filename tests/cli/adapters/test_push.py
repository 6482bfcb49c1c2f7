"""``fedapp push`` by huggingface_hub's own code, against a double of the hub."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants

from fedapp.cli.adapters.export import export
from fedapp.cli.main import main
from tests.cli.adapters.hub_double import TOKEN, Repository, hub_double
from tests.cli.adapters.kept_adapters import LORA, keep, make_run, save_model

CONFIG = "adapter_config.json"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return make_run(root, keep(root / "adapters" / "client-3", save_model(root / "Llama", "Llama"), LORA))


@pytest.fixture
def out(kept, tmp_path):
    export(kept, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that knows this machine's token; files go up by Git LFS, not by hf_xet's threads."""
    with hub_double() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("FEDAPP_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(capsys, folder: Path, *words: str) -> str:
    """The one line of a push that is refused."""
    assert main(["push", str(folder), "me/mine", *words]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "uploaded: " not in told.out
    return told.err


def test_what_arrives_is_the_export_bit_for_bit(out, hub, capsys):
    assert main(["push", str(out), "me/mine"]) == 0
    (name, repository), *others = hub.repositories.items()
    assert (name, repository.private, repository.commits, others) == ("me/mine", False, 1, [])
    arrived, kept = dict(repository.files), contents(out)
    config, own = json.loads(arrived.pop(CONFIG)), json.loads(kept.pop(CONFIG))
    assert arrived == kept
    assert os.path.isabs(own["base_model_name_or_path"])
    assert config == own | {"base_model_name_or_path": "some/model"}
    told = capsys.readouterr().out
    assert f"{sum(map(len, repository.files.values())):,} bytes, are uploaded to me/mine" in told
    assert told.endswith(f"uploaded: {hub.endpoint}/me/mine\n")


def test_hidden_files_stay_here(out, hub):
    (out / ".git").mkdir()
    (out / ".git" / "config").write_text("url = https://me:secret@example.org")
    assert main(["push", str(out), "me/mine"]) == 0
    assert not [name for name in hub.repositories["me/mine"].files if name.startswith(".")]


def test_a_repository_is_private_where_that_is_asked_for(out, hub, capsys):
    assert main(["push", str(out), "me/mine", "--private"]) == 0
    assert hub.repositories["me/mine"].private
    assert "(private if it is new)" in capsys.readouterr().out


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_that_is_there_keeps_its_other_files(out, hub, private):
    hub.repositories["me/mine"] = Repository(private, {"notes.md": b"mine", "README.md": b"old"})
    assert main(["push", str(out), "me/mine", *["--private"] * private]) == 0
    files = hub.repositories["me/mine"].files
    assert (files["notes.md"], files["README.md"]) == (b"mine", (out / "README.md").read_bytes())


def test_a_second_push_of_the_same_commits_nothing(out, hub):
    for _ in range(2):
        assert main(["push", str(out), "me/mine"]) == 0
    assert hub.repositories["me/mine"].commits == 1


def test_nothing_private_goes_into_a_public_repository(out, hub, capsys):
    hub.repositories["me/mine"] = Repository(private=False)
    said = refused(capsys, out, "--private")
    assert "nothing was uploaded: me/mine is there and public, which --private does not change" in said
    assert not hub.repositories["me/mine"].files


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        (
            "^/api/repos/create$",
            401,
            "the hub answered 401 to /api/repos/create: no; hf auth login, or HF_TOKEN",
        ),
        (
            "^/api/repos/create$",
            403,
            "the hub answered 403 to /api/repos/create: no; hf auth login, or HF_TOKEN",
        ),
        ("^/api/repos/create$", 500, "the hub answered 500 to /api/repos/create: no\n"),
        ("/preupload/", 403, "answered 403 to /api/models/me/mine/preupload/main: no; "),
        ("^/objects/", 403, "answered 403 to /objects/"),
        ("/commit/", 500, "the hub answered 500 to /api/models/me/mine/commit/main: no\n"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_nothing_is_committed(out, hub, capsys, place, status, said):
    hub.refused[place] = (status, "no")
    told = refused(capsys, out)
    assert "the upload to me/mine failed: " in told
    assert said in told
    assert not any(repository.files for repository in hub.repositories.values())


def test_a_token_that_the_hub_does_not_know_is_told(out, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "Invalid username or password.; hf auth login, or HF_TOKEN, with" in refused(capsys, out)


def test_a_machine_without_a_token_asks_nothing_of_the_hub(out, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token of the hub; hf auth login, or set HF_TOKEN" in refused(capsys, out)
    assert not hub.asked


def test_a_network_that_is_down_is_told(out, hub, monkeypatch, capsys):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert f"the hub at {endpoint} cannot be reached: " in refused(capsys, out)


def test_a_dry_run_tells_what_would_go_up_and_asks_nothing(out, hub, capsys):
    assert main(["push", str(out), "me/mine", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "adapter_model.safetensors" in said
    assert "would be uploaded to me/mine (public if it is new)" in said
    assert not hub.asked


@pytest.mark.parametrize(
    ("repository", "said"),
    [("mine", "must name user and repository"), ("a/b/c", "is no repository of the hub")],
)
def test_a_name_that_can_be_no_repository_is_one_line(out, hub, capsys, repository, said):
    assert main(["push", str(out), repository]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not hub.asked


def test_a_kept_adapter_is_not_pushed_as_it_is(kept, hub, capsys):
    assert "is no folder that fedapp export or fedapp merge made" in refused(capsys, kept)


def test_a_machine_that_is_offline_says_so(out, hub, monkeypatch, capsys):
    monkeypatch.setenv("FEDAPP_OFFLINE", "1")
    assert "nothing was uploaded: FEDAPP_OFFLINE says that this machine is offline" in refused(capsys, out)
    assert not hub.asked


@pytest.mark.slow
def test_hf_xet_takes_the_same_files_and_what_it_raises_is_one_line(out, hub):
    """The hub's own way since 2025, in a process of its own; the double only knows the files' hashes."""
    command = [sys.executable, "-m", "fedapp", "push", str(out), "me/mine"]
    hub.refused["^/cas/v1/shards$"] = (400, "no")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1), failed.stderr
    assert "fedapp: error: the upload to me/mine failed: " in failed.stderr
    hub.refused.clear()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    repository, kept = hub.repositories["me/mine"], contents(out)
    assert set(repository.files) == set(kept)
    large = {name: sha256(kept[name]).hexdigest() for name in kept if name.endswith(".safetensors")}
    assert repository.hashes == large
