"""What an export and a merged model carry, and what is refused."""

from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from fedapp.cli.adapters.export import export
from fedapp.cli.adapters.kept import attached
from fedapp.cli.adapters.merge import merge
from tests.cli.adapters.kept_adapters import IA3, LORA, PROMPTS, REFT, keep, make_run, save_model

LABELS = ("no", "yes")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")

    def tied(model):
        model.config.tie_word_embeddings = True
        model.tie_weights()
        return model

    return {
        "Llama": save_model(root / "Llama", "Llama", change=tied),
        "GPT2": save_model(root / "GPT2", "GPT2"),
        "Bert": save_model(root / "Bert", "Bert", LABELS),
    }


@pytest.fixture
def kept(models, tmp_path):
    return make_run(tmp_path, keep(tmp_path / "adapters" / "client-3", models["Llama"], LORA))


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder):
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def logits(model, tokenizer):
    with torch.no_grad():
        return model(**tokenizer(PROMPTS, return_tensors="pt")).logits


def own_logits(folder):
    with attached(folder) as kept:
        return logits(kept.base.model, kept.base.tokenizer)


def test_an_export_carries_the_tokenizer_and_ordinary_file_modes(kept, tmp_path, umask):
    export(kept, tmp_path / "out")
    known = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert known("w1 w2")["input_ids"] == [5, 6]
    assert modes(tmp_path / "out") == {0o644}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_the_model_card_tells_base_results_command_and_no_place_of_this_machine(kept, tmp_path):
    export(kept, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("some/model", "peft", "mit")
    assert {"lora", "federated-learning"} <= set(card.data.tags)
    result = card.data.eval_results[0]
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.625, "test")
    about = json.loads((kept / "adapter.json").read_text())
    assert about["base-fingerprint"] in card.text
    assert "fedapp run benchmark.data_dir=.../data method=fedit seed=1" in card.text
    assert str(tmp_path) not in card.text
    assert "/secret" not in card.text


def test_labels_are_exported_by_their_numbers(models, tmp_path):
    export(keep(tmp_path / "kept", models["Bert"], LORA, LABELS), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


def test_an_export_that_cannot_be_completed_leaves_nothing(kept, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no room")

    monkeypatch.setattr("fedapp.cli.adapters.export.write_card", broken)
    with pytest.raises(ValueError, match=r"out cannot be written: no room"):
        export(kept, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("Llama", LORA),
        ("GPT2", LORA),
        ("Llama", {**IA3, "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    ],
)
def test_transformers_opens_a_merged_model_that_answers_as_the_adapter_does(models, name, adapter, tmp_path):
    kept = keep(tmp_path / "kept", models[name], adapter)
    merge(kept, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    found = logits(merged, AutoTokenizer.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, own_logits(kept), atol=1e-4, rtol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(models[name]).eval()
    assert (found - logits(plain, AutoTokenizer.from_pretrained(models[name]))).abs().max() > 1e-2
    assert not list((tmp_path / "out").glob("adapter*"))


def test_a_merged_classifier_has_its_head_and_its_labels(models, tmp_path):
    kept = keep(tmp_path / "kept", models["Bert"], LORA, LABELS)
    merge(kept, tmp_path / "out")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert merged.config.id2label == {0: "no", 1: "yes"}
    found = logits(merged, AutoTokenizer.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, own_logits(kept), atol=1e-4, rtol=1e-4)


def test_what_adds_nothing_to_weights_is_not_merged(models, tmp_path):
    kept = keep(tmp_path / "kept", models["Llama"], REFT)
    with pytest.raises(ValueError, match="cannot be merged: loreft adds nothing to weights") as caught:
        merge(kept, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_tied_weight_is_not_merged_into(models, tmp_path):
    kept = keep(tmp_path / "kept", models["Llama"], {**LORA, "target_modules": ["lm_head"]})
    with pytest.raises(ValueError, match=r"lm_head cannot be merged into: its weight is also model\.embed"):
        merge(kept, tmp_path / "out")
    assert not (tmp_path / "out").exists()
