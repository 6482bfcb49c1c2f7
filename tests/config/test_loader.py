"""Composing leaves no trace of itself in a process that uses Hydra for something else."""

import re
import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from fedapp.config.loader import config_loader
from fedapp.core.files import ROOT


def test_the_hydra_of_a_notebook_is_put_back(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config_loader()
        assert compose("config") == {"mine": 1}
    config_loader()
    assert not GlobalHydra.instance().is_initialized()


def test_threads_compose_at_the_same_time():
    faults = []

    def work():
        try:
            for _ in range(20):
                assert "fedreft" in config_loader().get_group_options("method")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("folder", ["fedapp", "tests", "scripts"])
def test_nobody_imports_what_hydra_keeps_to_itself(folder):
    internal = re.compile(r"^\s*(from|import) hydra\._", re.MULTILINE)
    files = (ROOT / folder).rglob("*.py")
    assert [path for path in files if internal.search(Path(path).read_text(encoding="utf-8"))] == []
