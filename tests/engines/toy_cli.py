"""The ``fedapp`` command on the app in ``app/`` and a configuration of its own.

Run as a program: ``python toy_cli.py FOLDER WORD…`` writes the configuration into FOLDER.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

import fedapp.cli.run
import fedapp.core.files
import fedapp.planning.job
from fedapp.cli.main import main
from fedapp.config.run import RunSettings

APP = Path(__file__).parent / "app"


def use_toy_app(folder: Path) -> Path:
    """Make ``fedapp run`` use a copy of the toy app and its own settings; return the copy."""
    settings = asdict(RunSettings(num_clients=2, num_rounds=2)) | {
        "defaults": ["_self_", {"method": "toy"}, {"benchmark": "toy"}],
        "engine": "local",
        "run_dir": None,
        "runs_dir": str(folder / "runs"),
        "num_cpus_per_client": 1,
        "num_gpus_per_client": 0.0,
        "fault": "none",
    }
    conf, app = folder / "conf", folder / "app"
    if not conf.exists():
        for group in ("method", "benchmark"):
            (conf / group).mkdir(parents=True)
            (conf / group / "toy.yaml").write_text(f"about:\n  name: toy\n  description: a toy {group}\n")
        (conf / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    fedapp.core.files.CONF = conf
    fedapp.planning.job.find_app = lambda: app
    fedapp.cli.run.look_ahead = lambda config, **_: []  # the toy app has neither data nor model
    return app


if __name__ == "__main__":
    use_toy_app(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
