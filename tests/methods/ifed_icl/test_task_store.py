"""The task store: means merged exactly, two writers, a writer killed in the middle of a write."""

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from fedapp.cli.main import main
from fedapp.cli.output import OK, USAGE
from fedapp.cli.tasks import manage
from fedapp.core.files import ROOT
from fedapp.methods.ifed_icl.store import FILE, StoredTask, TaskKey, TaskStore, cosine, merge_means

# A writer that never stops; each record is all one number, large enough for many pages.
WRITER = """
import sys
import numpy as np
from fedapp.methods.ifed_icl.store import StoredTask, TaskKey, TaskStore
store, number = TaskStore(sys.argv[1]), 0
while True:
    number += 1
    new = StoredTask(TaskKey("t", "b", "v", ()), np.full((4, 2, 2), number, np.float32),
                     np.full((4, 2, 60_000), number), number, number)
    store.update("t", lambda old: new)
    print(number, flush=True)
"""
ADDER = """
import sys
import time
import numpy as np
from fedapp.methods.ifed_icl.store import StoredTask, TaskKey, TaskStore, merge_means
store, key = TaskStore(sys.argv[1]), TaskKey("t", "b", "v", ())
print("ready", flush=True)
sys.stdin.readline()
for number in range(30):
    value = np.full((1, 2, 3), float(sys.argv[2]))
    def change(old):
        time.sleep(0.002)  # time enough for the other writer to come between
        kept = (old.vectors, old.count) if old else (value, 0)
        return StoredTask(key, np.zeros((1, 2, 2)), *merge_means(*kept, value, 1), 1)
    store.update("t", change)
"""


# Killed after the new record is written and before it is committed.
STOPPED = """
import os, signal, sqlite3, sys
from fedapp.methods.ifed_icl import store as task_store
connect = sqlite3.connect
def watched(*arguments, **options):
    database = connect(*arguments, **options)
    stop = lambda statement: os.kill(os.getpid(), signal.SIGKILL) if statement == "COMMIT" else None
    database.set_trace_callback(stop)
    return database
task_store.sqlite3.connect = watched
store = task_store.TaskStore(sys.argv[1])
from dataclasses import replace
import numpy as np
large = np.ones((2, 2, 250_000))  # 8 MB: more than SQLite holds back until the commit
store.update("one", lambda old: replace(old, vectors=large, coefficients=old.coefficients + 1, rounds=99))
"""


def task(name="one", value=1.0, count=4, base="b" * 64):
    key = TaskKey(name, base, "toy 1", ("no", "yes"))
    return StoredTask(key, np.full((2, 2, 2), value, np.float32), np.full((2, 2, 3), value), count, 5)


def start(script, *arguments):
    words = [sys.executable, "-c", script, *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(words, cwd=ROOT, text=True, **pipes)


def test_a_task_comes_back_as_it_was_kept(tmp_path):
    store = TaskStore(tmp_path / "store")
    assert store.get("one") is None
    kept = task(value=0.1)
    store.update("one", lambda old: kept)
    found = store.get("one")
    assert found.key == kept.key
    assert (found.count, found.rounds) == (4, 5)
    np.testing.assert_array_equal(found.coefficients, kept.coefficients)
    np.testing.assert_array_equal(found.vectors, kept.vectors)
    store.update("one", lambda old: task(value=old.coefficients[0, 0, 0] + 1))
    assert store.get("one").coefficients[0, 0, 0] == np.float32(0.1) + 1
    assert store.get("one").created == found.created
    assert store.remove("one")
    assert not store.remove("one")
    assert store.tasks() == []


def test_a_running_mean_is_that_of_all_at_once():
    rows = np.random.default_rng(0).normal(size=(10, 2, 2, 3))
    mean, count = rows[:3].mean(0), 3.0
    for part in (rows[3:4], rows[4:9], rows[9:]):
        mean, count = merge_means(mean, count, part.mean(0), len(part))
    assert count == 10
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-14, atol=1e-16)


def test_cosines():
    assert cosine(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0]])) == 1.0
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == 0.0
    assert cosine(np.zeros(2), np.ones(2)) == 0.0


def test_two_writers_lose_nothing(tmp_path):
    writers = [start(ADDER, tmp_path, value) for value in (1, 3)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:  # at the same time, however long the interpreters took
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.wait(120) == 0, writer.stderr.read()
    kept = TaskStore(tmp_path).get("t")
    assert kept.count == 60
    np.testing.assert_allclose(kept.vectors, 2.0, rtol=1e-12)  # (30 * 1 + 30 * 3) / 60


def test_a_writer_killed_before_it_commits_leaves_the_old_record(tmp_path):
    store = TaskStore(tmp_path)
    store.update("one", lambda old: task(value=2.0))
    writer = start(STOPPED, tmp_path)
    assert writer.wait(120) == -signal.SIGKILL, writer.stderr.read()
    assert (tmp_path / f"{FILE}-wal").stat().st_size > 1_000_000  # there is a write to be undone
    kept = store.get("one")
    assert (kept.rounds, *np.unique(kept.coefficients)) == (5, 2.0)
    store.update("one", lambda old: task(value=3.0))
    assert store.get("one").coefficients[0, 0, 0] == 3.0


def test_a_writer_killed_at_any_moment_leaves_a_whole_record(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(2):
        writer = start(WRITER, tmp_path)
        said = int(writer.stdout.readline())
        time.sleep(float(rng.uniform(0.0, 0.05)))
        os.kill(writer.pid, signal.SIGKILL)
        rest = [int(line) for line in writer.stdout.read().split() if line.isdigit()]
        writer.wait()
        kept = TaskStore(tmp_path).get("t")
        values = {*np.unique(kept.coefficients), *np.unique(kept.vectors), kept.count, kept.rounds}
        assert len(values) == 1
        assert kept.rounds >= max([said, *rest])  # what it said it had written is there
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_keys_say_in_what_they_differ():
    one = TaskKey("t", "a" * 64, "sst2 1", ("no", "yes"))
    other = TaskKey("t", "c" * 64, "sst2 2", ("no", "maybe"))
    assert one.differences(one) == []
    assert one.differences(other) == [
        f"base model {'a' * 16} instead of {'c' * 16}",
        "template sst2 1 instead of sst2 2",
        "labels no, yes instead of no, maybe",
    ]


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be read as one" * 40)
    for call in (TaskStore(tmp_path).tasks, lambda: TaskStore(tmp_path).update("t", lambda old: task("t"))):
        with pytest.raises(ValueError, match=r"the task store .*tasks\.sqlite cannot be used: ") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_command_lists_shows_and_removes(tmp_path, capsys):
    store = TaskStore(tmp_path)
    for name in ("sst2", "trec"):
        store.update(name, lambda old, name=name: task(name))
    assert main(["tasks", "list", str(tmp_path)]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["task", "sst2", "trec"]
    assert "bbbbbbbbbbbbbbbb" in lines[1]
    assert main(["tasks", "show", str(tmp_path), "sst2"]) == OK
    text = capsys.readouterr().out
    assert "labels             no, yes" in text
    assert "1.000 to 1.000, mean 1.000" in text
    assert main(["tasks", "remove", str(tmp_path), "sst2"]) == OK
    assert capsys.readouterr().out == "removed sst2\n"
    assert [one.key.task for one in store.tasks()] == ["trec"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "{}", "trek"], "has no task 'trek'; did you mean trec?"),
        (["remove", "{}"], "tasks remove needs the task's id behind the folder"),
        (["list", "{}", "trec"], "tasks list takes a folder only"),
        (["drop", "{}", "trec"], "tasks drop does not exist"),
        (["list", "{}/elsewhere"], "holds no task store (tasks.sqlite)"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, capsys, words, said):
    TaskStore(tmp_path).update("trec", lambda old: task("trec"))
    assert main(["tasks", *(word.format(tmp_path) for word in words)]) == USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_empty_store_lists_nothing(tmp_path):
    store = TaskStore(tmp_path)
    store.update("trec", lambda old: task("trec"))
    store.remove("trec")
    stream = io.StringIO()
    manage("list", tmp_path, None, stream)
    assert len(stream.getvalue().splitlines()) == 1


def test_a_store_that_was_killed_while_it_was_made_is_an_empty_one(tmp_path):
    (tmp_path / "tasks.sqlite").touch()
    store = TaskStore(tmp_path)
    assert store.tasks() == []
    assert store.get("t") is None
    store.update("t", lambda old: task())
    assert len(store.tasks()) == 1


def test_a_folder_that_is_a_file_is_named_before_anything_is_trained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^method\.store_dir=.*file cannot be a folder"):
        TaskStore(tmp_path / "file").prepare()


DAMAGES = {
    "coefficients": b"\x00" * 7,
    "vectors": np.full((2, 2, 3), np.nan).tobytes(),
    "vectors_shape": "[2, 6]",
    "coefficients_shape": "[1, 4, 2]",
    "labels": "{",
    "count": float("inf"),
    "rounds": "many",
    "updated": 1e30,
    "created": "abc",
    "base": b"\x00",
}


MORE_DAMAGES = [
    ("coefficients_shape", "[-1, 2, 2]"),
    ("rounds", 1.5),
    ("updated", 9e11),
    ("labels", "[1, 2]"),
    ("vectors_shape", "[" * 3000),
    ("count", 0),
    ("task", b"one"),
]


@pytest.mark.parametrize(("column", "content"), MORE_DAMAGES)
def test_whatever_stands_in_a_record_the_list_shows_the_others(tmp_path, capsys, column, content):
    store = TaskStore(tmp_path)
    for name in ("one", "two"):
        store.update(name, lambda old, name=name: task(name))
    with sqlite3.connect(store.path) as database:
        database.execute(f"UPDATE tasks SET {column} = ? WHERE task = 'one'", (content,))
    database.close()
    assert main(["tasks", "list", str(tmp_path)]) == OK
    listed = capsys.readouterr().out
    assert "two " in listed
    assert "damaged: " in listed


@pytest.mark.parametrize("column", DAMAGES)
def test_a_damaged_record_hides_no_other_and_can_be_removed(tmp_path, capsys, column):
    store = TaskStore(tmp_path)
    for name in ("one", "two"):
        store.update(name, lambda old, name=name: task(name))
    with sqlite3.connect(store.path) as database:
        database.execute(f"UPDATE tasks SET {column} = ? WHERE task = 'one'", (DAMAGES[column],))
    database.close()
    assert main(["tasks", "list", str(tmp_path)]) == OK
    listed = capsys.readouterr().out.splitlines()
    assert listed[1].startswith("two ")
    assert listed[2] == f"damaged: one; to forget it: fedapp tasks remove {tmp_path} one"
    assert main(["tasks", "show", str(tmp_path), "one"]) == USAGE
    error = capsys.readouterr().err
    assert "task 'one' in" in error
    assert "is damaged" in error
    assert error.count("\n") == 1
    with pytest.raises(ValueError, match="'one' in .* is damaged"):
        store.update("one", lambda old: task())
    assert [one.key.task for one in store.tasks()] == ["two"]
    assert main(["tasks", "remove", str(tmp_path), "one"]) == OK
    assert [one.key.task for one in store.tasks()] == ["two"]
    assert store.update("one", lambda old: task()).key.task == "one"
