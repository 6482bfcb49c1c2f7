"""Benchmarks run to their end; what they measure is for people to judge."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_the_benchmark_of_context_vectors_runs_to_its_end():
    command = [sys.executable, str(ROOT / "benchmarks" / "context.py"), "--repeats", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x LoRA (goal <= 1)") == 9
    assert "injected / zero-shot" in done.stdout.splitlines()[-1]
