import copy

import numpy as np
import peft
import pytest
import torch
import transformers

from fedapp.adapters.lora.sb import LoraSb
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure
from fedapp.models.base import Base, fingerprint_of
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2, max_grad_norm=0.0)
TARGET = "layer.1.self_attn.q_proj"


def attach(base=None, **settings):
    settings = {"rank": 3, "init": "orthogonal", **settings}
    return LoraSb(**settings).attach(base or tiny_models.base(), TRAIN, seed=1)


def inputs_of(adapted):
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.prompts(["w1 w2 w3", "w5"]))
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def logits(adapted):
    with torch.no_grad():
        return adapted.base.model(**inputs_of(adapted)).logits


def dense(model, adapted):
    """The same model with every B R A added to a weight."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, target in adapted.targets.items():
            left, right = adapted.frozen[f"{name}.sb_B"], adapted.frozen[f"{name}.sb_A"]
            weight = changed.get_submodule(target.path).weight
            update = left @ adapted.trained[f"{name}.sb_R"] @ right
            weight.add_(update if isinstance(target.module, torch.nn.Linear) else update.T)
    return changed


def test_r_squared_parameters_a_layer_and_nothing_else():
    adapted = attach()
    shapes = {name: value.shape for name, value in adapted.parameters().items()}
    assert len(shapes) == 3 * 7  # layers x linear layers of a Llama block
    assert set(shapes.values()) == {(3, 3)}
    assert all(name.endswith(".sb_R") for name in shapes)


@pytest.mark.parametrize(("rank", "millions"), [(120, 2.83), (160, 5.02), (200, 7.85)])
def test_the_published_parameter_counts_of_llama_3_2_3b(rank, millions):
    # Fed-SB, https://arxiv.org/abs/2502.15436, commonsense; 7 layers in each of 28 blocks.
    sizes = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "vocab_size": 128256}
    heads = {"num_attention_heads": 24, "num_key_value_heads": 8}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    base = Base(model, tiny_models.tokenizer(), "lm", (), "none", torch.device("meta"))
    adapted = LoraSb(rank=rank).attach(base, TRAIN, seed=1)
    count = sum(value.numel() for value in adapted.trained.values())
    assert count == 7 * 28 * rank**2
    assert count / 1e6 == pytest.approx(millions, rel=3e-3)


@pytest.mark.parametrize("init", ["svd_weight", "orthogonal"])
@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_the_forward_pass_is_that_of_a_dense_update_and_starts_as_the_base(name, init):
    adapted = attach(tiny_models.base(name), init=init)
    plain = tiny_models.model(name).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(adapted), plain(**inputs_of(adapted)).logits, atol=0, rtol=0)
    adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    with torch.no_grad():
        theirs = dense(plain, adapted)(**inputs_of(adapted)).logits
        torch.testing.assert_close(logits(adapted), theirs, atol=2e-5, rtol=2e-5)
        assert (theirs - plain(**inputs_of(adapted)).logits).abs().max() > 1e-2


def test_only_r_is_trained():
    adapted = attach()
    kept = {name: value.clone() for name, value in adapted.frozen.items()}
    start, whole = adapted.parameters(), fingerprint_of(adapted.base.model)
    adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    assert all(torch.equal(adapted.frozen[name], value) for name, value in kept.items())
    assert fingerprint_of(adapted.base.model) == whole
    end = adapted.parameters()
    assert all((end[name] != start[name]).any() for name in start)


def test_the_subspace_is_the_same_everywhere_and_follows_the_seed():
    first, second = attach(), attach()
    other = LoraSb(rank=3, init="orthogonal").attach(tiny_models.base(), TRAIN, seed=2)
    name = f"{TARGET}.sb_B"
    assert all(torch.equal(first.frozen[n], second.frozen[n]) for n in first.frozen)
    assert not torch.equal(first.frozen[name], other.frozen[name])
    torch.testing.assert_close(first.frozen[name].T @ first.frozen[name], torch.eye(3))
    by_weight = attach(init="svd_weight")
    weight = by_weight.targets[TARGET].module.weight
    best = torch.linalg.svdvals(weight)[:3].square().sum()
    approximation = by_weight.frozen[name] @ by_weight.frozen[f"{TARGET}.sb_A"]
    torch.testing.assert_close((weight - approximation).square().sum(), weight.square().sum() - best)


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_the_estimate_is_the_best_approximation_of_the_first_sign_step(name):
    adapted = attach(tiny_models.base(name), init="svd_gradient", init_examples=6)
    examples = tiny_models.examples(9)
    found = adapted.estimate(examples, np.random.default_rng(5))
    order = np.random.default_rng(5).permutation(9)[:6]
    model = tiny_models.model(name).eval().requires_grad_(True)
    rows = adapted.trainer.encoder.examples([examples[i] for i in order])
    for batch in (adapted.trainer.encoder.batch(rows[:4]), adapted.trainer.encoder.batch(rows[4:])):
        model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets
        ).loss.backward()
    for target_name, target in adapted.targets.items():
        step = -target.matrix(model.get_submodule(target.path).weight.grad).sign()
        left, right = (torch.from_numpy(found[f"{target_name}.sb_{part}"]) for part in "BA")
        best = torch.linalg.svdvals(step)[:3].square().sum()
        missed = (step - left @ right).square().sum()
        # Entries whose gradient is rounding noise may differ in sign.
        assert float(missed) == pytest.approx(float(step.square().sum() - best), rel=5e-3)
    assert not any(value.requires_grad for value in adapted.base.model.parameters())


def test_with_svd_gradient_nothing_works_before_the_subspace_has_come():
    adapted = attach(init="svd_gradient")
    examples = tiny_models.examples(8)
    with pytest.raises(ClientFailure, match="adapter.init='svd_gradient' needs a method"):
        adapted.train(examples, np.random.default_rng(0))
    with adapted.disabled():
        alone = adapted.loss(examples)
    estimate = adapted.estimate(examples, np.random.default_rng(0))
    adapted.load(estimate)
    assert adapted.loss(examples) == alone
    adapted.train(examples, np.random.default_rng(0))
    assert adapted.loss(examples) < alone
    assert set(estimate) < set(adapted.parameters())
    adapted.reset()
    with pytest.raises(ClientFailure):
        adapted.loss(examples)


def test_the_gradient_of_r_is_that_of_the_dense_weight_seen_from_the_subspace():
    adapted = attach()
    batch = adapted.trainer.encoder.batch(adapted.trainer.encoder.examples(tiny_models.examples(6)))
    losses, count = adapted.trainer.losses(batch)
    (losses.sum() / count).backward()
    model = tiny_models.model("Llama").eval()
    model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets
    ).loss.backward()
    for name, target in adapted.targets.items():
        full = model.get_submodule(target.path).weight.grad
        expected = adapted.frozen[f"{name}.sb_B"].T @ full @ adapted.frozen[f"{name}.sb_A"].T
        torch.testing.assert_close(adapted.trained[f"{name}.sb_R"].grad, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Roberta"])
def test_peft_opens_the_exported_folder_with_equal_logits(name, tmp_path):
    labels = ("no", "yes") if name == "Roberta" else ()
    adapted = attach(tiny_models.base(name, labels=labels), init="svd_gradient")
    examples = tiny_models.examples(12, labels=len(labels))
    adapted.load(adapted.estimate(examples, np.random.default_rng(0)))
    adapted.train(examples, np.random.default_rng(0))
    adapted.export(tmp_path)
    plain = tiny_models.model(name, labels=len(labels)).eval()
    plain.config.pad_token_id = 0
    with torch.no_grad():
        alone = copy.deepcopy(plain)(**inputs_of(adapted)).logits
        theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()(**inputs_of(adapted)).logits
    torch.testing.assert_close(logits(adapted), theirs, atol=2e-5, rtol=2e-5)
    assert (theirs - alone).abs().max() > 1e-3


def test_detach_leaves_the_base_bit_for_bit_as_it_was():
    base = tiny_models.base("Bert", labels=("no", "yes"))
    whole = fingerprint_of(base.model)
    adapted = attach(base, init="svd_gradient")
    examples = tiny_models.examples(8, labels=2)
    adapted.load(adapted.estimate(examples, np.random.default_rng(0)))
    adapted.train(examples, np.random.default_rng(0))
    adapted.detach()
    assert fingerprint_of(base.model) == whole
    assert not any(value.requires_grad for value in base.model.parameters())
    assert not any(module._forward_hooks for module in base.model.modules())
    attach(base)


def test_r_stays_fp32_over_a_bf16_base():
    adapted = attach(tiny_models.base(dtype=torch.bfloat16))
    examples = tiny_models.examples(8)
    before = adapted.loss(examples)
    adapted.train(examples, np.random.default_rng(0))
    assert all(value.dtype == np.float32 for value in adapted.parameters().values())
    assert adapted.loss(examples) < before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 33}, r"adapter.rank=33 must be within 1 and 16, the smaller width of layer.0"),
        ({"init": "svd"}, "init='svd' must be one of: svd_gradient"),
        ({"init_examples": 0}, "init_examples=0 must be a whole number"),
        ({"target_modules": "q_proj"}, "target_modules='q_proj' must be null, all-linear"),
    ],
)
def test_bad_settings_are_refused_in_one_line_and_leave_the_base_free(settings, message):
    base = tiny_models.base()
    with pytest.raises(ValueError, match=message) as caught:
        attach(base, **settings)
    assert "\n" not in str(caught.value)
    attach(base)
