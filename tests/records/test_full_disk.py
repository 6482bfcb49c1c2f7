"""A run whose disk gets full: it fails, and what it has written can be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from fedapp.core.files import WriteError
from fedapp.records import adapter_file
from fedapp.records.adapter_file import write_adapter
from tests.federation import ToyRun, run_toy


@pytest.fixture
def disk(monkeypatch):
    """A disk with room for so many bytes of lines and no new file after that."""

    def make(room: int, number: int = errno.ENOSPC) -> None:
        write, write_text, left = os.write, Path.write_text, [room]

        def lines(file: int, content: bytes) -> int:
            if os.fstat(file).st_nlink == 0:  # a nameless temporary file lies on another disk
                return write(file, content)
            # What overwrites run.json begins a file; lines are appended.
            begins = os.lseek(file, 0, os.SEEK_CUR) == 0 and os.fstat(file).st_size > 0
            if left[0] <= 0 and not begins:
                raise OSError(number, os.strerror(number))
            written = write(file, content if begins else content[: left[0]])
            left[0] -= 0 if begins else written
            return written

        def whole(path: Path, text: str, **settings: str) -> int:
            if left[0] <= 0:
                raise OSError(number, os.strerror(number))
            return write_text(path, text, **settings)

        monkeypatch.setattr(os, "write", lines)
        monkeypatch.setattr(Path, "write_text", whole)

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("room", [500, 3000])
def test_a_run_on_a_disk_that_gets_full_fails_with_the_reason_and_whole_lines(tmp_path, disk, room, number):
    disk(room, number)
    with pytest.raises(WriteError, match="cannot be written") as caught:
        run_toy(tmp_path / "run", "num_rounds=3")
    run = ToyRun(tmp_path / "run")
    about = run.json("run")
    assert (about["status"], about["reason"]) == ("failed", str(caught.value))
    assert os.strerror(number) in about["reason"]
    assert about["seed"] == 1
    for path in run.folder.glob("*.jsonl"):
        text = path.read_text()
        assert text == "" or text.endswith("\n")
        assert run.rows(path.stem)
    assert not list(run.folder.rglob("*.partial"))
    assert (run.folder / "config.yaml").exists()


def test_a_run_whose_last_event_does_not_fit_is_not_complete(tmp_path, disk):
    whole = run_toy(tmp_path / "whole", "num_rounds=1", "save_adapters=false")
    sizes = [path.stat().st_size for path in whole.folder.glob("*.jsonl")]
    last = (whole.folder / "events.jsonl").read_bytes().splitlines(keepends=True)[-1]
    disk(sum(sizes) - len(last) // 2)  # times differ in a few digits
    with pytest.raises(WriteError):
        run_toy(tmp_path / "run", "num_rounds=1", "save_adapters=false")
    assert ToyRun(tmp_path / "run").json("run")["status"] == "failed"


def test_an_adapter_that_does_not_fit_leaves_nothing_half_written(tmp_path, monkeypatch):
    config = {"adapter": {}, "model": {}, "benchmark": {}, "seed": 1}

    def full(arrays: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(adapter_file, "save_file", full)
    with pytest.raises(WriteError) as caught:
        write_adapter(tmp_path / "a", {"w": np.zeros(3, np.float32)}, config, "f")
    path = tmp_path / "a" / "adapter.safetensors"
    assert str(caught.value) == f"{path} cannot be written: No space left on device"
    assert list(path.parent.iterdir()) == []


def test_a_client_that_cannot_keep_its_adapter_is_named_with_the_reason(tmp_path, monkeypatch):
    def full(arrays: dict, path: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(adapter_file, "save_file", full)
    with pytest.raises(RuntimeError, match="cannot be written: No space left on device"):
        run_toy(tmp_path / "run", "num_rounds=1")
    about = ToyRun(tmp_path / "run").json("run")
    assert about["status"] == "failed"
    assert "adapter.safetensors cannot be written: No space left on device" in about["reason"]
