"""The folder of a Flower run: short, gone afterwards, and no killed run's stays for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fedapp.engines.flower import home as homes
from fedapp.engines.flower.home import LONGEST_TEMP, OWNER, flower_home


def test_the_folder_for_sockets_is_short_and_goes_away(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr(homes.tempfile, "gettempdir", lambda: str(deep))
    with flower_home() as home:
        assert home.is_dir()
        assert len(str(home)) <= LONGEST_TEMP
    assert not home.exists()


@pytest.fixture
def parent(monkeypatch, tmp_path):
    """Where the folders are; pytest's own are too long for sockets."""
    monkeypatch.setattr(homes.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(homes, "LONGEST_TEMP", 1000)
    return tmp_path


def test_what_a_killed_run_left_goes_when_the_next_one_starts(parent):
    code = (
        "import os, signal, tempfile\n"
        "from fedapp.engines.flower import home\n"
        f"tempfile.gettempdir = lambda: {str(parent)!r}\n"
        "home.LONGEST_TEMP = 1000\n"
        "with home.flower_home(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = parent.iterdir()
    assert (left / OWNER).exists()
    with flower_home() as home:
        assert list(parent.iterdir()) == [home]


def owned(parent: Path, name: str, **changes: object) -> Path:
    """A folder of this process, but for what is changed of its owner's description."""
    folder = parent / name
    folder.mkdir()
    (folder / OWNER).write_text(json.dumps({**homes._owner(), **changes}))
    return folder


def test_only_folders_of_the_dead_are_removed(parent):
    dead = owned(parent, "fedapp-00000001", created=psutil.Process().create_time() - 86400)
    (parent / "fedapp-00000002").mkdir()  # of anybody
    kept = [
        parent / "fedapp-00000002",
        owned(parent, "fedapp-00000003", pid=None),
        owned(parent, "fedapp-00000004"),
        owned(parent, "fedapp-00000005", machine="another", pid=2**22 + 1),
        owned(parent, "elsewhere", created=0.0),
    ]
    with flower_home() as home:
        assert not dead.exists()
        assert sorted(parent.iterdir()) == sorted([*kept, home])
        assert json.loads((home / OWNER).read_text())["pid"] == os.getpid()
