"""Files are written whole or not at all, on a disk that takes no more, too."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import pytest

from fedapp.core.files import LineFile, WriteError, append_line, write_atomically
from fedapp.core.payload import ArraysOnDisk


@pytest.fixture
def full(monkeypatch):
    """A disk that takes so many more bytes and then says that it is full."""

    def fill(room: int) -> None:
        write, left = os.write, [room]

        def until_full(file: int, content: bytes) -> int:
            if file < 3:
                return write(file, content)
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(file, content[: left[0]])
            left[0] -= written
            return written

        monkeypatch.setattr(os, "write", until_full)

    return fill


@pytest.mark.parametrize("room", [0, 1, 5])
def test_a_line_that_does_not_fit_is_taken_back(tmp_path, full, room):
    file = LineFile(tmp_path / "rows.jsonl")
    file.append('{"a": 1}')
    full(room)
    with pytest.raises(WriteError, match=r"rows\.jsonl cannot be written: No space left on device") as caught:
        file.append('{"a": 2}')
    assert "\n" not in str(caught.value)
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n'


def test_a_first_line_that_does_not_fit_leaves_no_file(tmp_path, full):
    full(3)
    file = LineFile(tmp_path / "rows.jsonl")
    for _ in range(2):
        with pytest.raises(WriteError):
            file.append('{"a": 1}')
    assert list(tmp_path.iterdir()) == []


def test_a_line_goes_out_in_one_write_and_is_there_at_once(tmp_path, monkeypatch):
    write, sizes = os.write, []
    monkeypatch.setattr(os, "write", lambda file, content: sizes.append(len(content)) or write(file, content))
    file = LineFile(tmp_path / "rows.jsonl")
    file.append("x" * 100_000)
    assert sizes == [100_001]
    assert (tmp_path / "rows.jsonl").stat().st_size == 100_001


def test_lines_go_on_behind_a_half_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    append_line(path, '{"a": 3}')
    append_line(path, '{"a": 4}')
    assert path.read_text() == '{"a": 1}\n{"a"\n{"a": 3}\n{"a": 4}\n'


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    code = (
        "import resource, sys; from pathlib import Path; from fedapp.core.files import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try: write_atomically(Path(sys.argv[1]), 'n' * 11)\n"
        "except WriteError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path} cannot be written: File too large\n"
    assert [one.name for one in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_text() == "old"


def test_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (write_atomically, append_line):
        with pytest.raises(WriteError, match="file/x cannot be written: Not a directory"):
            write(tmp_path / "file" / "x", "text")


def test_a_real_limit_takes_no_half_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    code = (
        "import json, resource, sys; from pathlib import Path; from fedapp.core.files import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); file = LineFile(Path(sys.argv[1]))\n"
        "try:\n"
        "    while True: file.append(json.dumps({'number': 12345}))\n"
        "except WriteError as error: print(error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == errno.EFBIG
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 1000 // 18


def test_arrays_on_disk_come_back_bit_for_bit_and_take_no_memory_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = {
        "half": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
        "odd": np.array([np.nan, -0.0], np.float32),
        "none": np.zeros((0, 4), np.float32),
        "one": np.array(7, np.int64),
        "across": np.arange(12.0).reshape(3, 4).T,
    }
    kept = ArraysOnDisk({3: first})
    kept[0] = {"w": np.ones(5, np.float32)}
    kept[3] = first | {"odd": np.array([1.5, np.inf], np.float32)}  # in the place of what was there
    kept[0] = {"w": np.arange(100, dtype=np.float32)}  # larger: elsewhere
    assert sorted(kept) == [0, 3]
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in kept[3].items()} == {
        name: (a.dtype, a.shape, a.tobytes())
        for name, a in (first | {"odd": np.array([1.5, np.inf], np.float32)}).items()
    }
    assert kept[0]["w"].tolist() == list(range(100))
    kept[0]["w"][:] = 0
    assert kept[0]["w"][-1] == 99  # what is looked up is the reader's own
    del kept[3]
    assert (len(kept), 3 in kept) == (1, False)
    with pytest.raises(KeyError):
        kept[3]
    assert list(tmp_path.iterdir()) == []  # nothing that could be left behind
