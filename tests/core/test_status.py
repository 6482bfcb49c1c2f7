"""What run.json says of a run, on a full disk and after a kill, too."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedapp.core.files import WriteError
from fedapp.core.status import (
    has_died,
    holding,
    holding_alone,
    how_it_died,
    is_held,
    read_status,
    taking_up,
    write_status,
)

LONG = "x" * 3000


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on there is no room for new files; existing bytes can be overwritten."""

    def refuse(path: Path, *arguments: object, **settings: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "failed", "reason": "no room"},
        {"status": "failed", "reason": LONG, "seed": 1},
        {"status": "failed", "reason": "ü " * 300, "seed": 1, "warnings": [LONG]},
        {"status": "failed", "reason": "no room", "seed": 1, "warnings": [LONG], "versions": {}},
    ],
)
def test_on_a_full_disk_the_last_word_takes_the_place_of_the_one_before(tmp_path, monkeypatch, facts):
    write_status(tmp_path, {"status": "starting", "reason": ""})
    fill_disk(monkeypatch)
    size = (tmp_path / "run.json").stat().st_size
    write_status(tmp_path, facts)
    assert (tmp_path / "run.json").stat().st_size <= size  # no new block
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    said = read_status(tmp_path)
    assert said["status"] == "failed"
    assert said["reason"][:5] == facts["reason"][:5]
    assert said.get("seed") == facts.get("seed") or len(facts["reason"]) > 500


def test_without_a_run_json_there_is_nothing_to_overwrite(tmp_path, monkeypatch):
    fill_disk(monkeypatch)
    with pytest.raises(WriteError, match=r"run\.json cannot be written: No space left on device"):
        write_status(tmp_path, {"status": "failed", "reason": ""})


def test_where_nothing_can_be_overwritten_either_that_is_said(tmp_path, monkeypatch):
    write_status(tmp_path, {"status": "running", "reason": ""})

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(WriteError, match=r"run\.json cannot be written: Read-only file system"):
        write_status(tmp_path, {"status": "failed", "reason": ""})


def test_of_two_who_must_be_alone_one_is_refused(tmp_path):
    with holding_alone(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(BlockingIOError), holding_alone(tmp_path):
            pass
    with holding(tmp_path), pytest.raises(BlockingIOError), holding_alone(tmp_path):
        pass
    assert is_held(tmp_path) is False


def test_one_process_at_a_time_takes_up_a_run(tmp_path):
    write_status(tmp_path, {"status": "failed", "reason": ""})
    with taking_up(tmp_path), pytest.raises(BlockingIOError), taking_up(tmp_path):
        pass
    with taking_up(tmp_path):
        write_status(tmp_path, {"status": "running", "reason": ""})
        with taking_up(tmp_path):  # another file by now: who has it finds the folder held
            pass
    with taking_up(tmp_path / "of a run that is yet to be made"):
        pass


def test_who_waited_for_a_run_locks_the_file_that_is_there_now(tmp_path, monkeypatch):
    write_status(tmp_path, {"status": "failed", "reason": ""})
    looks, samestat = [], os.path.samestat

    def replace_at_first(*stats: os.stat_result) -> bool:
        if not looks:
            write_status(tmp_path, {"status": "running", "reason": ""})
        looks.append(samestat(stats[0], (tmp_path / "run.json").stat()))
        return looks[-1]

    monkeypatch.setattr(os.path, "samestat", replace_at_first)
    with taking_up(tmp_path):
        assert looks == [False, True]
        monkeypatch.undo()
        with pytest.raises(BlockingIOError), taking_up(tmp_path):
            pass


def test_a_run_is_held_as_long_as_a_process_of_it_lives(tmp_path):
    write_status(tmp_path, {"status": "running", "reason": "", "pid": 12})
    assert has_died(tmp_path)
    assert how_it_died(tmp_path) == "process 12 has gone without a word"
    with holding(tmp_path), holding(tmp_path):  # command and server
        assert is_held(tmp_path)
        assert not has_died(tmp_path)
    assert is_held(tmp_path) is False
    code = (
        "import os, sys; from pathlib import Path; from fedapp.core.status import *\n"
        "with holding(Path(sys.argv[1])):\n    print('held', flush=True); input()"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    process.stdout.readline()
    assert not has_died(tmp_path)
    process.kill()
    process.communicate()
    assert has_died(tmp_path)


@pytest.mark.parametrize(
    ("facts", "died"),
    [
        ({"status": "completed"}, False),
        ({"status": "failed"}, False),
        ({"status": "starting"}, True),
        ({"status": "died", "reason": "killed"}, True),
        ({}, False),
    ],
)
def test_what_is_finished_has_not_died(tmp_path, facts, died):
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert has_died(tmp_path) is died


def test_where_there_are_no_locks_no_run_is_said_to_have_died(tmp_path, monkeypatch):
    import fcntl

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_status(tmp_path, {"status": "running", "reason": ""})
    with holding(tmp_path):
        assert is_held(tmp_path) is None
        assert not has_died(tmp_path)
