"""What ``auto`` takes: by measured ratios, once on a machine, and the same in all of its processes."""

import json

import pytest
import torch

from fedapp.models import processor
from fedapp.models.base import load_base
from fedapp.models.processor import Processor, choose, describe_choices, measure

FAST = Processor("p", float32=2.0, bfloat16=1.0, sdpa=2.0, eager=1.0)
SLOW = Processor("p", float32=1.0, bfloat16=30.0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path))
    remembered = processor.this_processor
    remembered.cache_clear()
    yield tmp_path
    remembered.cache_clear()


@pytest.mark.parametrize(
    ("found", "dtype", "attention"),
    [
        (FAST, "bfloat16", "eager"),
        (SLOW, "float32", None),
        (Processor("p", 1.2, 1.0), "float32", None),  # a tie stays with the exact one
        (Processor("p", 2.0, 1.0, 1.2, 1.0), "bfloat16", "sdpa"),
    ],
)
def test_auto_takes_what_is_clearly_faster(found, dtype, attention, monkeypatch):
    monkeypatch.setattr(processor, "this_processor", lambda: found)
    assert choose("auto", "auto", "cpu") == (dtype, attention)
    node = {"dtype": "auto", "attn_implementation": "auto", "device": "cpu"}
    assert describe_choices(node) == {"dtype": dtype, "attn_implementation": attention}


def test_what_is_named_is_taken_and_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(processor, "this_processor", lambda: pytest.fail("measured"))
    assert choose("float16", "sdpa", "cpu") == ("float16", "sdpa")
    assert choose("float32", "auto", "cpu") == ("float32", None)
    assert describe_choices({"dtype": "float32", "attn_implementation": None, "device": "cpu"}) == {}
    assert describe_choices({"_target_": "a model that has no such settings"}) == {}
    assert describe_choices({"dtype": "auto", "device": "no such device"}) == {}


def test_it_is_measured_once_on_a_machine(cache, monkeypatch):
    calls = []
    monkeypatch.setattr(processor, "measure", lambda name: calls.append(name) or Processor(name, 2.0, 1.0))
    for _ in range(2):
        assert processor.this_processor().dtype == "bfloat16"
        processor.this_processor.cache_clear()
    assert len(calls) == 1
    kept = json.loads((cache / "processor.json").read_text())
    (cache / "processor.json").write_text(json.dumps({"another": kept[calls[0]]}))
    processor.this_processor()
    assert len(calls) == 2  # of another processor, or torch, it says nothing
    processor.this_processor.cache_clear()
    (cache / "processor.json").write_text("{")
    processor.this_processor()
    assert len(calls) == 3


def test_the_measurement_is_of_this_machine(cache):
    found = measure("here")
    assert min(found.float32, found.bfloat16) > 0
    assert (found.sdpa is None) == (found.dtype == "float32")


def test_a_base_is_loaded_as_auto_says(cache, monkeypatch):
    monkeypatch.setattr(processor, "this_processor", lambda: FAST)
    base = load_base("asset:embedded", dtype="auto", attn_implementation="auto")
    assert base.model.dtype == torch.bfloat16
    assert base.model.config._attn_implementation == "eager"
    assert load_base("asset:embedded", dtype="bfloat16", attn_implementation="eager") is base
