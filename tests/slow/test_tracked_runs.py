"""Trackers under Flower's engine, whose server is a process of its own: the packages' files, read back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedapp.core.files import ROOT
from tests.federation import TOY, ToyRun
from tests.records.test_trackers import SHORT, of_mlflow, of_tensorboard, of_wandb, points

pytestmark = pytest.mark.slow
FLOWER = [word for word in TOY if not word.startswith(("engine=", "join_timeout="))]


@pytest.fixture
def tracked(tmp_path):
    """Runs the toy under Flower's engine with a tracker; the run."""

    def run(tracker: str) -> ToyRun:
        words = [
            *FLOWER,
            *SHORT,
            "engine=flwr",
            "join_timeout=400",
            f"tracker={tracker}",
            f"run_dir={tmp_path / 'run'}",
        ]
        command = [sys.executable, "-m", "fedapp", "run", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=590, check=False)
        assert done.returncode == 0, done.stderr
        run = ToyRun(tmp_path / "run")
        assert run.warnings() == []
        assert len(points(run)) > 20
        return run

    return run


@pytest.mark.long
def test_tensorboards_files_hold_the_run_folders_numbers(tracked):
    pytest.importorskip("tensorboard", reason="needs the extra 'trackers'")
    run = tracked("tensorboard")
    read, wanted = of_tensorboard(run.folder / "tensorboard"), points(run)
    assert [one[:2] for one in read] == [one[:2] for one in wanted]
    assert [one[2] for one in read] == pytest.approx([one[2] for one in wanted], rel=1e-6)  # fp32


@pytest.mark.long
def test_mlflows_store_holds_the_run_folders_numbers(tracked, tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra 'trackers'")
    run = tracked("mlflow")
    kept, found = of_mlflow(tmp_path / "mlruns")
    assert kept.info.status == "FINISHED"
    assert found == points(run)


@pytest.mark.long
def test_an_offline_run_of_wandb_holds_the_run_folders_numbers(tracked):
    pytest.importorskip("wandb", reason="needs the extra 'trackers'")
    run = tracked("wandb")
    assert of_wandb(run.folder / "wandb") == points(run)
