import copy
import json

import numpy as np
import peft
import pytest
import torch

from fedapp.adapters.lora.adapter import Lora
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import fingerprint_of, make_base
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2, max_grad_norm=0.0)


def attach(base=None, **settings):
    return Lora(**{"rank": 2, "alpha": 4.0, **settings}).attach(base or tiny_models.base(), TRAIN, seed=1)


def test_names_are_stable_whatever_the_model_calls_its_blocks():
    names = set(attach().parameters())
    expected = {
        f"layer.{layer}.self_attn.{part}_proj.lora_{matrix}"
        for layer in range(3)
        for part in "qv"
        for matrix in "AB"
    }
    assert names == expected
    assert "layer.2.attn.c_attn.lora_A" in attach(tiny_models.base("GPT2")).parameters()
    encoder = attach(tiny_models.base("Bert", labels=("no", "yes"))).parameters()
    assert {"layer.0.attention.self.query.lora_B", "head.classifier.weight"} <= set(encoder)


def test_training_is_that_of_a_plain_loop_around_peft():
    adapted = attach()
    start = adapted.parameters()
    examples = tiny_models.examples(10)
    model = tiny_models.model("Llama").eval()
    config = peft.LoraConfig(r=2, lora_alpha=4.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(model, config).eval()
    named = {
        name.replace(".default", ""): value for name, value in theirs.named_parameters() if "lora_" in name
    }
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(torch.from_numpy(start[stable(name)]))
    optimizer = torch.optim.AdamW(named.values(), lr=1e-2, weight_decay=0.0)
    rows = adapted.trainer.encoder.examples(examples)
    rng = np.random.default_rng(3)
    rng.integers(2**63)  # the dropout's seed
    order = rng.permutation(10)
    for first in range(0, 10, 4):
        batch = adapted.trainer.encoder.batch([rows[i] for i in order[first : first + 4]])
        theirs(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.train(examples, np.random.default_rng(3))
    end = adapted.parameters()
    for name, value in named.items():
        np.testing.assert_allclose(end[stable(name)], value.detach().numpy(), atol=2e-5)
        assert np.abs(end[stable(name)] - start[stable(name)]).max() > 1e-3


def stable(name):
    return name.removeprefix("base_model.model.model.layers").replace(".weight", "").replace(".", "layer.", 1)


def test_detach_leaves_the_base_bit_for_bit_as_it_was():
    base = tiny_models.base("Bert", labels=("no", "yes"))
    whole, modules = fingerprint_of(base.model), [type(m) for m in base.model.modules()]
    adapted = attach(base)
    with pytest.raises(ValueError, match="already carries a lora adapter"):
        attach(base)
    adapted.train(tiny_models.examples(8, labels=2), np.random.default_rng(0))
    adapted.detach()
    assert fingerprint_of(base.model) == whole
    assert [type(m) for m in base.model.modules()] == modules
    assert not any(value.requires_grad for value in base.model.parameters())
    attach(base)


@pytest.mark.parametrize("targets", [None, "all-linear", ["q_proj"]])
def test_peft_opens_the_exported_folder_with_equal_logits(targets, tmp_path):
    adapted = attach(target_modules=targets)
    same_after_export(adapted, "Llama", 0, tmp_path)


@pytest.mark.parametrize("targets", [None, "all-linear"])
@pytest.mark.parametrize("name", ["Bert", "Roberta", "Llama"])
def test_peft_opens_an_exported_classifier_with_its_head(name, targets, tmp_path):
    adapted = attach(tiny_models.base(name, labels=("no", "yes")), target_modules=targets)
    same_after_export(adapted, name, 2, tmp_path)


def same_after_export(adapted, name, labels, folder):
    adapted.train(tiny_models.examples(12, labels=labels), np.random.default_rng(0))
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.prompts(["w1 w2 w3", "w5"]))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        ours = adapted.base.model(**inputs).logits
    adapted.export(folder)
    plain = tiny_models.model(name, labels=labels).eval()
    plain.config.pad_token_id = 0
    with torch.no_grad():
        alone = copy.deepcopy(plain)(**inputs).logits
        theirs = peft.PeftModel.from_pretrained(plain, str(folder)).eval()(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert (ours - alone).abs().max() > 1e-3


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_peft_opens_what_a_model_saved_without_pooler_exports(targets, tmp_path):
    lacking = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
    model, labels = tiny_models.model("Bert", labels=2), ("no", "yes")
    base = make_base(model, tiny_models.tokenizer(), head="classification", labels=labels, missing=lacking)
    assert set(lacking) < set(base.head_parameters)
    same_after_export(attach(base, target_modules=targets), "Bert", 2, tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"]
    assert sorted(saved) == ["bert.pooler", "classifier"]


def test_with_a_frozen_only_b_is_trained_and_shared():
    adapted = attach(freeze_a=True)
    assert all(name.endswith("lora_B") for name in adapted.parameters())
    before = {n: v.clone() for n, v in adapted.base.model.named_parameters() if "lora_A" in n}
    adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    with adapted.disabled():
        pass
    for name, value in before.items():
        now = adapted.base.model.get_parameter(name)
        assert torch.equal(now, value)
        assert not now.requires_grad
    assert all(np.abs(value).max() > 0 for value in adapted.parameters().values())


def test_a_frozen_a_has_the_same_bits_on_every_client_whatever_it_trains_on():
    found = []
    for client in (0, 1):
        adapted = attach(freeze_a=True)
        adapted.train(tiny_models.examples(8)[4 * client :][:4], np.random.default_rng(client))
        named = adapted.base.model.named_parameters()
        found.append({n: v.detach().clone() for n, v in named if "lora_A" in n})
        adapted.detach()
    assert found[0]
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_disabled_answers_as_the_base_alone():
    adapted = attach()
    examples = tiny_models.examples(6)
    alone = adapted.loss(examples)  # B starts at zero
    adapted.train(examples, np.random.default_rng(0))
    after = adapted.loss(examples)
    with adapted.disabled():
        assert adapted.loss(examples) == pytest.approx(alone, abs=1e-6)
    assert adapted.loss(examples) == after != alone


def test_reset_and_load_are_exact_and_the_seed_decides_the_start():
    adapted = attach()
    start = adapted.parameters()
    adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    end = adapted.parameters()
    adapted.reset()
    assert all(np.array_equal(adapted.parameters()[name], start[name]) for name in start)
    adapted.load(end)
    assert all(np.array_equal(adapted.parameters()[name], end[name]) for name in end)
    again = attach().parameters()
    assert all(np.array_equal(again[name], start[name]) for name in start)
    with pytest.raises(ValueError, match=r"has shape \(2, 2\).*needs \(2, 32\)"):
        adapted.load({"layer.0.self_attn.q_proj.lora_A": np.zeros((2, 2))})


def test_dropout_acts_in_training_only():
    examples = tiny_models.examples(8)
    plain, dropping = attach(), attach(dropout=0.5)
    for adapted in (plain, dropping):
        adapted.train(examples, np.random.default_rng(0))
    name = "layer.0.self_attn.q_proj.lora_B"
    assert not np.array_equal(plain.parameters()[name], dropping.parameters()[name])
    assert dropping.loss(examples) == dropping.loss(examples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"rank": 2.5}, "rank=2.5 must be a whole number"),
        ({"alpha": "abc"}, "alpha='abc' must be a number greater than 0"),
        ({"freeze_a": "no"}, "freeze_a='no' must be true or false"),
        ({"target_modules": ["q_porj"]}, r"adapter.target_modules=\['q_porj'\]: .* not found"),
        ({"target_modules": [3]}, r"target_modules=\[3\] must be null, all-linear or a list"),
    ],
)
def test_bad_settings_are_refused_in_one_line_and_leave_the_base_free(settings, message):
    base = tiny_models.base()
    with pytest.raises(ValueError, match=message) as caught:
        attach(base, **settings)
    assert "\n" not in str(caught.value)
    attach(base)


def test_updates_are_fp32_over_a_bf16_base():
    adapted = attach(tiny_models.base(dtype=torch.bfloat16))
    examples = tiny_models.examples(8)
    before = adapted.loss(examples)
    for step in range(3):
        adapted.train(examples, np.random.default_rng(step))
    assert all(value.dtype == np.float32 for value in adapted.parameters().values())
    assert adapted.loss(examples) < before
