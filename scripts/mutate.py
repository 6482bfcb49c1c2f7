"""Break fedapp on purpose, one edit at a time, and see whether the tests notice.

Run: ``python scripts/mutate.py`` for all edits of ``tests/mutations.toml``, or with words for those whose
file or description holds one: ``python scripts/mutate.py votes scoring``. Ends with 1 where an edit survives,
no longer applies, or breaks more than it should (an error before the first test, a test that never ends).

The checkout is never edited: each edit is made in a copy in a temporary folder. The libraries are imported
once; every edit runs its tests in a fork of this process, which has imported nothing of fedapp.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
EDITS = ROOT / "tests" / "mutations.toml"
COPIED = ("fedapp", "conf", "tests", "client_app.py", "server_app.py", "pyproject.toml")
LIBRARIES = (
    "numpy", "torch", "transformers", "datasets", "flwr.app", "flwr.clientapp", "flwr.serverapp", "hydra",
    "flwr_datasets.partitioner", "peft", "scipy.sparse.csgraph", "sklearn.cluster", "safetensors.numpy",
    "pytest",
)  # fmt: skip
PATIENCE = 120  # seconds for the tests of one edit, on a machine with other work
KILLED, SURVIVED, STALE, BROKEN = "killed", "SURVIVED", "NO LONGER APPLIES", "BROKEN"


@dataclass(frozen=True)
class Edit:
    """One fault, and the tests that must notice it.

    Attributes:
        what: The fault in words.
        file: The module that is edited, from the root of the repository.
        old: A text that stands in it exactly once.
        new: What takes its place.
        tests: Names of tests as pytest takes them.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def make(self, folder: Path) -> bool:
        """Edit the copy of the file; says whether the edit still applies."""
        path = folder / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(self.old) != 1:
            return False
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        later = path.stat().st_mtime + 10  # so that no compiled file of the whole module is taken for it
        os.utime(path, (later, later))
        return True

    def take_back(self, folder: Path) -> None:
        """Put the file back as it is in the checkout."""
        shutil.copy2(ROOT / self.file, folder / self.file)


@dataclass(frozen=True)
class Result:
    """What came of an edit, and how long that took."""

    edit: Edit
    status: str
    seconds: float = 0.0
    said: str = ""


def read_edits(path: Path) -> list[Edit]:
    """The edits of a TOML file, in its order.

    Raises:
        SystemExit: If there are none; TypeError and KeyError at one of another form.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8")).get("edit", [])
    if not tables:
        raise SystemExit(f"{path} holds no [[edit]]")
    lists = [[tests] if isinstance(tests := table.pop("tests"), str) else tests for table in tables]
    return [Edit(**table, tests=tuple(tests)) for table, tests in zip(tables, lists, strict=True)]


def copy_checkout(folder: Path) -> None:
    """Copy what the tests need."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


def start_tests(folder: Path, tests: Sequence[str], *, keep_bytecode: bool = False) -> int:
    """Run tests in a fork, on the package in this folder; gives the fork's process id."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            _run_tests(folder, tests, keep_bytecode)
        finally:
            os._exit(99)
    return process


def _run_tests(folder: Path, tests: Sequence[str], keep_bytecode: bool) -> NoReturn:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.alarm(PATIENCE if not keep_bytecode else 10 * PATIENCE)
    os.chdir(folder)
    os.environ |= {
        "PYTHONPATH": str(folder),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # plugins take half a second
    sys.dont_write_bytecode = not keep_bytecode
    # No other checkout may be found, whether by PYTHONPATH or as it is installed.
    sys.path[:] = [str(folder), *(path for path in sys.path if not (Path(path or ".") / "fedapp").is_dir())]
    import pytest

    settings = ["-x", "--tb=line", "-p", "no:cacheprovider", f"--basetemp={folder / 'made'}"]
    code = int(pytest.main([*settings, *tests]))
    sys.stdout.flush()
    sys.stderr.flush()
    used = sys.modules.get("fedapp")
    os._exit(code if used is None or str(used.__file__).startswith(str(folder)) else 98)


def try_edits(edits: Sequence[Edit], folders: Sequence[Path]) -> list[Result]:
    """Try each edit in one of the folders, as many at once as there are folders; shows them as they end."""
    waiting, free = list(edits), list(folders)
    running: dict[int, tuple[Edit, Path, float]] = {}
    results = []
    while waiting or running:
        while waiting and free:
            edit = waiting.pop(0)
            if not edit.make(free[-1]):
                results.append(show(Result(edit, STALE, said=f"not exactly once in it: {edit.old}")))
                continue
            folder = free.pop()
            running[start_tests(folder, edit.tests)] = (edit, folder, time.monotonic())
        if running:
            process, code = os.wait()
            edit, folder, started = running.pop(process)
            results.append(show(judge(edit, code, time.monotonic() - started, folder)))
            edit.take_back(folder)
            free.append(folder)
    return results


def judge(edit: Edit, code: int, seconds: float, folder: Path) -> Result:
    """What the tests' exit status says: 1 is a failed test, 0 none; anything else is no verdict."""
    status = {0: SURVIVED, 1: KILLED}.get(os.waitstatus_to_exitcode(code), BROKEN)
    said = " ".join(edit.tests) if status == SURVIVED else ""
    if status == BROKEN:
        said = last_lines(folder)
    return Result(edit, status, seconds, said)


def last_lines(folder: Path) -> str:
    """The end of what the tests said."""
    return "\n".join((folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def show(result: Result) -> Result:
    """Print a line of the table."""
    edit = result.edit
    print(f"{result.status:<9} {result.seconds:4.1f} s  {edit.file.removeprefix('fedapp/'):<38} {edit.what}")
    if result.said:
        print("    " + result.said.replace("\n", "\n    "))
    sys.stdout.flush()
    return result


def main() -> int:
    """Try the edits; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only edits whose file or description holds one of these")
    parser.add_argument("--edits", type=Path, default=EDITS, help="the list (TOML)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="edits at a time")
    settings = parser.parse_args()
    edits = [
        edit
        for edit in read_edits(settings.edits)
        if not settings.words or any(word in f"{edit.file} {edit.what}" for word in settings.words)
    ]
    if not edits:
        raise SystemExit(f"no edit of {settings.edits} holds one of: {' '.join(settings.words)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # else each fork's collector would touch, and so copy, all that is imported
    with tempfile.TemporaryDirectory(prefix="fedapp-mutate-") as made:
        folders = [Path(made).resolve() / f"copy-{number}" for number in range(max(settings.jobs, 1))]
        copy_checkout(folders[0])
        tests = sorted({test for edit in edits for test in edit.tests})
        process = start_tests(folders[0], tests, keep_bytecode=True)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
            print(last_lines(folders[0]))
            print("the tests do not pass on the code as it is: an edit would prove nothing")
            return 1
        print(
            f"{len(tests)} tests pass on the code as it is ({time.monotonic() - started:.0f} s)", flush=True
        )
        for folder in folders[1:]:
            shutil.copytree(folders[0], folder, ignore=shutil.ignore_patterns("made"))
        results = try_edits(edits, folders)
    killed = sum(result.status == KILLED for result in results)
    print(f"{killed} of {len(results)} edits are killed ({time.monotonic() - started:.0f} s)")
    return 0 if killed == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
