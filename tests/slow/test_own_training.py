"""Somebody's own training code, in a package of its own, as docs/own-training.md has it."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fedapp.adapters.lora.adapter import Lora
from fedapp.config.build import ConfigError, build
from fedapp.config.compose import load_config
from fedapp.core.files import ROOT
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example

EXAMPLE = ROOT / "examples" / "own_training"


def load(file, name):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_trls_trainer_takes_the_same_steps_as_our_loop(monkeypatch):
    pytest.importorskip("trl", reason="needs pip install trl")
    monkeypatch.setitem(sys.modules, "own_training", load(EXAMPLE / "own_training.py", "own_training"))
    own = load(EXAMPLE.parent / "own_sft" / "own_sft.py", "own_sft_example")
    base = build(load_config(["method=fedit"])["model"], "model")
    rows = [Example(f"What is {number} + 2?", str(number + 2)) for number in range(6)]
    train = TrainConfig(learning_rate=1e-2, batch_size=6, num_epochs=3, max_length=64, max_new_tokens=4)
    before = (base.model.config.to_dict(), base.model.generation_config.to_dict(), base.model.forward)
    found, losses = [], []
    for adapter in (Lora(rank=4), own.SftLora(rank=4)):
        model = adapter.attach(base, train, seed=1)
        start = model.parameters()
        model.train(rows, np.random.default_rng(0))
        losses.append(model.loss(rows))
        assert not base.model.training
        found.append({key: value - start[key] for key, value in model.parameters().items()})
        model.detach()
    ours, theirs = found
    assert max(np.abs(value).max() for value in ours.values()) > 1e-2
    assert max(np.abs(ours[key] - theirs[key]).max() for key in ours) < 1e-4
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    after = (base.model.config.to_dict(), base.model.generation_config.to_dict(), base.model.forward)
    assert after == before  # the base is shared


@pytest.mark.slow
def test_a_transformers_trainer_takes_the_same_steps_as_our_loop():
    own = load(EXAMPLE / "own_training.py", "own_training_example")
    base = build(load_config(["method=fedit"])["model"], "model")
    rows = [Example(f"What is {number} + 2?", str(number + 2)) for number in range(6)]
    # One batch of all rows: the order, which both draw in their own way, does not matter.
    train = TrainConfig(learning_rate=1e-2, batch_size=6, num_epochs=3, max_length=64, max_new_tokens=4)
    found = {}
    for name, adapter in {
        "ours": Lora(rank=4),
        "theirs": own.TrainerLora(rank=4),
        "z": own.TrainerLora(rank=4, z_loss=0.1),
    }.items():
        model = adapter.attach(base, train, seed=1)
        start = model.parameters()
        model.train(rows, np.random.default_rng(0))
        assert not base.model.training
        found[name] = {key: value - start[key] for key, value in model.parameters().items()}
        model.detach()
    gap = {
        name: max(np.abs(found["ours"][key] - found[name][key]).max() for key in found["ours"])
        for name in ("theirs", "z")
    }
    assert max(np.abs(value).max() for value in found["ours"].values()) > 1e-2
    assert gap["theirs"] < 1e-4
    assert gap["z"] > 1e-3


@pytest.mark.long
@pytest.mark.slow
def test_the_example_is_installed_and_trains_in_a_federation(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    source.mkdir()
    for file in ("pyproject.toml", "own_training.py"):
        (source / file).write_text((EXAMPLE / file).read_text())
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(source)], check=True, timeout=120)
    paths = [str(ROOT), str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    words = "method=fedit adapter._target_=own_training.TrainerLora +adapter.z_loss=0.0001 benchmark=embedded"
    few = "num_clients=2 num_rounds=2 benchmark.num_train=40 benchmark.num_test=20 train.num_epochs=1"
    command = [sys.executable, "-m", "fedapp", "run", *words.split(), *few.split(), "engine=local"]
    command += ["score.base=false", "score.before=false", f"run_dir={tmp_path / 'run'}"]

    with pytest.raises(ConfigError, match="own_training.TrainerLora' is no class for adapter"):
        load_config(words.split())  # it is not installed here
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train-loss"] for row in rows if "train-loss" in row]
    assert len(losses) == 4
    assert losses[2] + losses[3] < losses[0] + losses[1]
