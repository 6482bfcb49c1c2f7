"""Kept adapters of tiny models, written as a client writes its own."""

from __future__ import annotations

import json

import numpy as np

from fedapp.config.build import build
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import load_base
from fedapp.records.adapter_file import write_adapter
from tests import tiny_models

LORA = {"_target_": "fedapp.adapters.lora.adapter.Lora", "rank": 2, "about": {"name": "lora"}}
IA3 = {"_target_": "fedapp.adapters.ia3.Ia3", "about": {"name": "ia3"}}
REFT = {
    "_target_": "fedapp.adapters.reft.adapter.Reft",
    "rank": 2,
    "positions": "f1+l1",
    "about": {"name": "loreft"},
}
SCORES = [{"split": "test", "num-examples": 40, "accuracy": 0.625}]
PROMPTS = ["w1 w2 w3 w4", "w5 w6 w7 w8"]


def save_model(folder, name, labels=(), change=lambda model: model):
    """A tiny model's checkpoint with its tokenizer."""
    model = change(tiny_models.model(name, labels=len(labels)))
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def keep(folder, model_folder, adapter, labels=(), **train):
    """An adapter with values of its own, kept in a folder; the folder."""
    head = "classification" if labels else "lm"
    node = {"_target_": "fedapp.models.base.load_base", "path": str(model_folder), "head": head}
    node |= {"device": "cpu", "about": {"name": "tiny", "hub": "some/model", "license": "mit"}}
    folder.mkdir(parents=True)
    benchmark = {
        "_target_": "fedapp.benchmarks.own.Own",
        "data_dir": "/not/on/this/machine",
        "prompt": "w9 {prompt}",
        "labels": list(labels) or None,
        "about": {"name": "own"},
    }
    train = {"max_length": 32, "max_new_tokens": 4, "template": "plain", **train}
    base = load_base(str(model_folder), head=head, labels=labels, device="cpu").with_labels(labels)
    adapted = build(adapter, "adapter").attach(base, TrainConfig(**train), seed=1)
    adapted.train(tiny_models.examples(12, labels=len(labels)), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    moved = {n: v + 0.2 * rng.standard_normal(v.shape).astype("f4") for n, v in adapted.parameters().items()}
    adapted.load(moved)
    config = {"adapter": adapter, "model": node, "benchmark": benchmark, "seed": 1, "train": train}
    write_adapter(folder, adapted.parameters(), config, base.fingerprint, SCORES)
    adapted.detach()
    return folder


def make_run(folder, adapter, **facts):
    """The run folder around a kept adapter, as ``run.json`` tells it."""
    about = {
        "overrides": ["method=fedit", "benchmark.data_dir=/secret/place/data"],
        "git-sha": "abc",
        **facts,
    }
    (folder / "run.json").write_text(json.dumps(about))
    return adapter
