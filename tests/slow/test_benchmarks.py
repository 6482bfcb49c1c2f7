"""Benchmarks run to their end; what they measure is for people to judge."""

import subprocess
import sys

import pytest

from fedapp.core.files import ROOT

pytestmark = pytest.mark.slow


def test_the_benchmark_of_context_vectors_runs_to_its_end():
    command = [sys.executable, str(ROOT / "perf" / "context.py"), "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x LoRA (goal <= 1)") == 9
    assert "injected / zero-shot" in done.stdout.splitlines()[-1]
