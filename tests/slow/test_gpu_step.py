"""The benchmark of real sizes runs where there is no GPU, and says what it cannot do there."""

import os
import re
import subprocess
import sys

import pytest

from fedapp.core.files import ROOT

pytestmark = pytest.mark.slow


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(ROOT / "perf" / "gpu_step.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("more", [[], pytest.param(["--checkpointing"], marks=pytest.mark.long)])
def test_every_path_runs_at_the_tiny_shape(more):
    done = run("--shape", "tiny", "--batch", "2", "--length", "32", "--repeats", "2", *more)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^  (\w+, \w+) +(\d+) tokens/s +([\d.]+) ms$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in found] == [
        "LoReFT, fedapp",
        "LoReFT, pyreft",
        "LoRA, fedapp",
        "LoRA, peft",
    ]
    for _, speed, milliseconds in found:
        assert float(speed) * float(milliseconds) / 1e3 == pytest.approx(2 * 32, rel=0.02)


def test_a_real_shape_without_a_gpu_is_refused_in_one_line():
    done = run("--shape", "3b")
    assert done.returncode == 1
    assert (
        done.stderr.strip() == "--shape 3b needs a GPU and none is visible here; --shape tiny runs anywhere"
    )
