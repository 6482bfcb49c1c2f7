"""Updates merged into the weights of a shared base: exact, and gone without a trace."""

import copy

import numpy as np
import peft
import pytest
import torch

from fedapp.adapters.lora.adapter import Lora
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import fingerprint_of, make_base
from tests import lora_layers, tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2, max_grad_norm=0.0)
LAYER = "layer.0.self_attn.q_proj"


def attach(base=None, **settings):
    return Lora(**{"rank": 2, "alpha": 6.0, **settings}).attach(base or tiny_models.base(), TRAIN, seed=1)


def drawn(adapted, rank=3, seed=0):
    """Factors of an update of every layer, of any rank."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(
            scale=0.1, size=(rank, v.shape[1]) if name.endswith("A") else (v.shape[0], rank)
        ).astype(np.float32)
        for name, v in adapted.factors().items()
    }


def weight(adapted, layer=LAYER):
    return adapted.base.model.get_submodule(adapted._paths[layer]).get_base_layer().weight


def bits(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_factors_carry_the_scale_and_come_back_as_they_went():
    adapted = attach()
    adapted.train(tiny_models.examples(8), np.random.default_rng(0))
    raw, factors = adapted.parameters(), adapted.factors()
    assert set(factors) == set(raw)
    np.testing.assert_allclose(factors[f"{LAYER}.lora_B"], 3.0 * raw[f"{LAYER}.lora_B"], rtol=1e-6)
    assert (factors[f"{LAYER}.lora_A"] == raw[f"{LAYER}.lora_A"]).all()
    adapted.reset()
    adapted.load_factors(factors)
    for name, value in adapted.parameters().items():
        np.testing.assert_allclose(value, raw[name], rtol=1e-6)


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_merging_adds_the_product_to_the_weights(name):
    adapted = attach(tiny_models.base(name))
    before = {layer: weight(adapted, layer).detach().clone() for layer in adapted._paths}
    first, second = drawn(adapted, 3, 0), drawn(adapted, 5, 1)
    adapted.merge(first)
    adapted.merge(second)
    for layer, old in before.items():
        update = sum(f[f"{layer}.lora_B"] @ f[f"{layer}.lora_A"] for f in (first, second))
        turned = update.T if name == "GPT2" else update  # GPT-2 keeps its weights as [in, out]
        np.testing.assert_allclose(weight(adapted, layer).detach(), old.numpy() + turned, atol=1e-6)
        np.testing.assert_allclose(adapted.parameters()[f"{layer}.merged"], update, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_gets_its_bits_back(dtype):
    base = tiny_models.base(dtype=dtype)
    fingerprint = fingerprint_of(base.model)
    adapted = attach(base)
    start, examples = bits(base.model), tiny_models.examples(6)
    alone = adapted.loss(examples)
    adapted.merge(drawn(adapted))
    merged = adapted.loss(examples)
    with adapted.disabled():
        assert adapted.loss(examples) == alone
    assert adapted.loss(examples) == merged != alone
    adapted.train(examples, np.random.default_rng(0))
    adapted.reset()
    assert all(torch.equal(value, start[name]) for name, value in bits(base.model).items())
    assert not any(name.endswith(".merged") for name in adapted.parameters())
    adapted.merge(drawn(adapted))
    adapted.detach()
    assert fingerprint_of(base.model) == fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_a_hundred_small_updates_are_as_exact_as_fp32_over_a_base_in_any_type(name, dtype):
    adapted = attach(tiny_models.base(name, dtype=dtype))
    layer = next(iter(adapted._paths))
    original = lora_layers.effective(adapted, layer)
    # Each step alone is lost in bf16's rounding of these weights, and so is most of their sum.
    step = {n: v * np.float32(0.0005 if n.endswith("A") else 1.0) for n, v in drawn(adapted).items()}
    for _ in range(100):
        adapted.merge(step)
    total = 100 * (step[f"{layer}.lora_B"].astype(float) @ step[f"{layer}.lora_A"].astype(float))
    assert np.abs(total).max() < 0.05 * np.abs(original).max()
    np.testing.assert_allclose(adapted.parameters()[f"{layer}.merged"], total, atol=1e-6)
    np.testing.assert_allclose(lora_layers.effective(adapted, layer) - original, total, atol=1e-6)
    adapted.reset()
    assert (lora_layers.effective(adapted, layer) == original).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_beside_a_short_weight_an_update_acts_in_fp32_and_the_sum_is_rounded_once(dtype):
    adapted = attach(tiny_models.base(dtype=dtype))
    layer = adapted.base.model.get_submodule(adapted._paths[LAYER])
    inputs = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    plain = layer(inputs)
    adapted.merge(drawn(adapted))
    update = torch.from_numpy(adapted.parameters()[f"{LAYER}.merged"])
    output = layer(inputs)
    expected = (plain.float() + inputs.float() @ update.T).to(dtype)
    assert torch.equal(output, expected)
    assert not torch.equal(output, plain)
    (found,) = torch.autograd.grad(output.float().sum(), inputs)
    (wanted,) = torch.autograd.grad(expected.float().sum(), inputs)
    torch.testing.assert_close(found, wanted)
    with adapted.disabled():
        assert torch.equal(layer(inputs), plain)
    assert torch.equal(layer(inputs), output)
    adapted.detach()
    assert not layer.get_base_layer()._forward_hooks


class EightBits(torch.nn.Linear):
    """Stands for a quantised layer: int8 weights with one scale."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.scale = float(linear.weight.abs().max()) / 127
        packed = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, inputs):
        return torch.nn.functional.linear(inputs, self.weight.to(inputs.dtype) * self.scale)


def test_an_update_is_merged_beside_quantised_weights():
    base = tiny_models.base()
    for block in base.model.model.layers:
        block.self_attn.q_proj = EightBits(block.self_attn.q_proj)
    adapted = attach(base, target_modules=["q_proj"])
    start, packed = lora_layers.effective(adapted, LAYER), weight(adapted).detach().clone()
    factors = drawn(adapted)
    adapted.merge(factors)
    expected = start + factors[f"{LAYER}.lora_B"] @ factors[f"{LAYER}.lora_A"]
    np.testing.assert_allclose(lora_layers.effective(adapted, LAYER), expected, atol=1e-6)
    assert torch.equal(weight(adapted), packed)
    adapted.reset()
    assert (lora_layers.effective(adapted, LAYER) == start).all()


def test_parameters_with_a_merged_update_can_be_loaded_again():
    adapted = attach()
    examples = tiny_models.examples(6)
    adapted.merge(drawn(adapted))
    adapted.train(examples, np.random.default_rng(0))
    kept, loss = adapted.parameters(), adapted.loss(examples)
    adapted.reset()
    assert adapted.loss(examples) != loss
    adapted.load(kept)
    assert adapted.loss(examples) == loss
    assert all((adapted.parameters()[name] == value).all() for name, value in kept.items())
    with pytest.raises(ValueError, match=rf"'{LAYER}.merged' has shape \(2, 2\)"):
        adapted.load({f"{LAYER}.merged": np.zeros((2, 2), np.float32)})


def test_redrawing_gives_a_fresh_update_that_does_nothing_yet():
    adapted = attach()
    examples = tiny_models.examples(6)
    alone, first = adapted.loss(examples), adapted.factors()
    adapted.train(examples, np.random.default_rng(0))
    adapted.redraw(np.random.default_rng(5))
    assert adapted.loss(examples) == pytest.approx(alone, abs=1e-6)
    drawn_a = adapted.factors()[f"{LAYER}.lora_A"]
    assert (drawn_a != first[f"{LAYER}.lora_A"]).all()
    # peft's own draw has the same spread: uniform within 1 / sqrt(in).
    assert 0.8 * 32**-0.5 < np.abs(drawn_a).max() <= 32**-0.5
    assert np.abs(first[f"{LAYER}.lora_A"]).max() <= 32**-0.5


@pytest.mark.parametrize(("name", "labels"), [("Llama", ()), ("GPT2", ()), ("Bert", ("no", "yes"))])
def test_peft_opens_the_export_of_a_merged_update_with_equal_logits(name, labels, tmp_path):
    adapted = attach(tiny_models.base(name, labels=labels))
    adapted.merge(drawn(adapted, 3))
    adapted.train(tiny_models.examples(12, labels=len(labels)), np.random.default_rng(0))
    encoder = adapted.trainer.encoder
    batch = encoder.batch(encoder.prompts(["w1 w2 w3", "w5"]))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        ours = adapted.base.model(**inputs).logits
    adapted.export(tmp_path)
    plain = tiny_models.model(name, labels=len(labels)).eval()
    plain.config.pad_token_id = 0
    with torch.no_grad():
        alone = copy.deepcopy(plain)(**inputs).logits
        opened = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
        theirs = opened(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    assert (ours - alone).abs().max() > 1e-2
    ranks = {v.shape[0] for n, v in opened.named_parameters() if "lora_A" in n}
    assert ranks == {5}  # 3 merged, 2 of the adapter


def test_what_cannot_be_merged_is_refused_and_nothing_of_it_is():
    adapted = attach()
    good = drawn(adapted)
    start = weight(adapted).detach().clone()
    odd = {**good, "layer.2.self_attn.v_proj.lora_B": np.zeros((3, 3), np.float32)}
    with pytest.raises(ValueError, match=r"'layer.2.self_attn.v_proj' have shapes \[3, 32\] and \[3, 3\]"):
        adapted.merge(odd)
    with pytest.raises(ValueError, match="'layer.9.q'"):
        adapted.merge({**good, "layer.9.q.lora_A": np.zeros((1, 1), np.float32)})
    infinite = {name: value * np.float32(np.inf) for name, value in good.items()}
    with pytest.raises(ValueError, match="not finite"):
        adapted.merge(infinite)
    assert torch.equal(weight(adapted), start)
    with pytest.raises(ValueError, match="have rank 3, this adapter has 2"):
        adapted.load_factors(good)
    with pytest.raises(ValueError, match="adapter.freeze_a=True"):
        attach(freeze_a=True).factors()


def test_a_weight_that_two_layers_share_is_not_merged_into():
    model = tiny_models.model("Llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    adapted = attach(make_base(model, tiny_models.tokenizer()), target_modules=["lm_head"])
    with pytest.raises(ValueError, match="the weight of lm_head is tied"):
        adapted.merge(drawn(adapted))
