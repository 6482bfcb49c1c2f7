"""The tests have teeth: every listed fault is noticed, and the runner says so where one is not."""

import os
import re
import subprocess
import sys

import pytest

from fedapp.core.files import ROOT

pytestmark = pytest.mark.slow

SOUND = "tests/methods/test_mixing.py::test_softmax_turns_the_two_losses_into_a_weight"
LIST = f"""
[[edit]]
what = "nothing that a test could notice"
file = "fedapp/methods/mixing.py"
old = "Interpolate by the two losses"
new = "Mix by the two losses"
tests = "{SOUND}"

[[edit]]
what = "a text that is not there"
file = "fedapp/methods/mixing.py"
old = "no such line"
new = ""
tests = "{SOUND}"

[[edit]]
what = "a module that cannot be imported"
file = "fedapp/methods/mixing.py"
old = "import math"
new = "import nowhere"
tests = "{SOUND}"

[[edit]]
what = "softmax favours the larger loss"
file = "fedapp/methods/mixing.py"
old = "math.tanh((others - alone)"
new = "math.tanh((alone - others)"
tests = ["{SOUND}"]
"""


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "mutate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def sources():
    return {path: path.read_bytes() for path in sorted((ROOT / "fedapp").rglob("*.py"))}


@pytest.mark.long
def test_every_listed_fault_is_noticed_by_its_tests_and_the_checkout_is_left_alone():
    before = sources()
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    killed, count = re.search(r"^(\d+) of (\d+) edits are killed", done.stdout, re.MULTILINE).groups()
    assert killed == count
    assert sources() == before


def test_what_survives_no_longer_applies_or_breaks_all_is_said_and_ends_with_1(tmp_path):
    listed = tmp_path / "edits.toml"
    listed.write_text(LIST)
    done = run("--edits", str(listed), "--jobs", "1")
    assert done.returncode == 1
    found = {line.split("  ")[-1].strip(): line.split("  ")[0] for line in done.stdout.splitlines()}
    assert found["nothing that a test could notice"] == "SURVIVED"
    assert found["a text that is not there"] == "NO LONGER APPLIES"
    assert found["a module that cannot be imported"] == "BROKEN"
    assert found["softmax favours the larger loss"].startswith("killed")
    assert "No module named 'nowhere'" in done.stdout
    assert "1 of 4 edits are killed" in done.stdout
