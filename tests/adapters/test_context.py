"""Context vectors against plain hooks written for each model, and what calibration promises."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from fedapp.adapters.context.adapter import Context
from fedapp.adapters.context.reading import principal_components
from fedapp.adapters.context.sites import residual_sites
from fedapp.adapters.lora.adapter import Lora
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.models.base import fingerprint_of, make_base
from tests import tiny_models

TRAIN = TrainConfig(
    batch_size=4,
    max_length=48,
    max_new_tokens=4,
    learning_rate=1e-2,
    weight_decay=1e-3,
    max_grad_norm=0.0,
    warmup_ratio=0.05,
    schedule="cosine",
    eval_batch_size=3,
    answers="auto",
)
TEXT = replace(TRAIN, answers="text")
LABELS = ("w1", "w2", "w3")
# Where each family keeps its blocks and which modules feed the residual stream: known here, found there.
NAMED = {
    "Llama": ("model.layers", "self_attn", "mlp"),
    "Qwen2": ("model.layers", "self_attn", "mlp"),
    "Qwen3": ("model.layers", "self_attn", "mlp"),
    "Gemma": ("model.layers", "self_attn", "mlp"),
    "Gemma2": ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
    "GPT2": ("transformer.h", "attn", "mlp"),
    "GPTNeoX": ("gpt_neox.layers", "attention", "mlp"),
}
MORE = {"Qwen3": {"head_dim": 8}, "Gemma2": {"head_dim": 8}}
for _name, _extra in MORE.items():
    tiny_models.SIZES.setdefault(_name, {**tiny_models.SIZES["Llama"], **_extra})


def base(name="Llama", labels=LABELS, **settings):
    return replace(tiny_models.base(name, **settings), labels=labels)


def attach(where=None, train=TRAIN, **settings):
    return Context(**settings).attach(where or base(), train, seed=0)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for one in tiny_models.examples(count, seed=seed):
        label = int(rng.integers(len(LABELS)))
        made.append(Example(one.prompt, LABELS[label], label=label))
    return made


def vectors(adapted, seed=5):
    return np.random.default_rng(seed).normal(size=adapted.shape).astype(np.float32)


def random_coefficients(adapted, seed=6):
    shape = adapted.parameters()["coefficients"].shape
    return (np.random.default_rng(seed).normal(size=shape) * 0.3 + [0.1, 1.0][: shape[-1]]).astype(np.float32)


class Reference:
    """The equations by plain hooks on named modules, one prompt at a time, nothing shared with ours."""

    def __init__(self, name):
        self.model = tiny_models.model(name).eval()
        self.tokenizer = tiny_models.tokenizer()
        path, attention, mlp = NAMED[name]
        self.sites = [
            (getattr(block, attention), getattr(block, mlp)) for block in self.model.get_submodule(path)
        ]

    def run(self, text, edit):
        handles = []
        for layer, pair in enumerate(self.sites):
            for part, module in enumerate(pair):

                def hook(_module, _inputs, output, layer=layer, part=part):
                    if isinstance(output, tuple):
                        return (edit(layer, part, output[0]), *output[1:])
                    return edit(layer, part, output)

                handles.append(module.register_forward_hook(hook))
        try:
            return self.model(torch.tensor([self.tokenizer(text)["input_ids"]]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()

    def encode(self, texts):
        total = torch.zeros(len(self.sites), 2, 32)

        def keep(layer, part, output):
            total[layer, part] += output[0, -1].detach()
            return output

        for text in texts:
            self.run(text, keep)
        return (total / len(texts)).numpy()

    def logits(self, text, given, coefficients):
        given, coefficients = torch.as_tensor(given), torch.as_tensor(coefficients)
        return self.run(
            text,
            lambda layer, part, out: (
                coefficients[layer, part, 1] * out + coefficients[layer, part, 0] * given[layer, part]
            ),
        )


@pytest.mark.parametrize("name", NAMED)
def test_encoding_and_injection_are_those_of_plain_hooks(name):
    adapted, reference = attach(base(name)), Reference(name)
    demos = examples(7)
    expected = reference.encode([f"{e.prompt} {e.target}\n" for e in demos])
    np.testing.assert_allclose(adapted.encode(demos), expected, atol=2e-5)
    given, coefficients = vectors(adapted), random_coefficients(adapted)
    adapted.load({"context-vectors": given, "coefficients": coefficients})
    ids = [tiny_models.tokenizer()(label)["input_ids"][0] for label in LABELS]
    losses, answers = [], []
    with torch.no_grad():
        for example in demos:
            logits = reference.logits(example.prompt, given, coefficients)[-1]
            losses.append(-float(logits.log_softmax(-1)[ids[example.label]]))
            answers.append(LABELS[int(logits[ids].argmax())])
    assert adapted.loss(demos) == pytest.approx(np.mean(losses), abs=2e-4)
    assert adapted.generate([e.prompt for e in demos]) == answers


@pytest.mark.parametrize("form", ["linear", "add", "balance"])
def test_each_form_has_the_gradient_of_its_equation(form):
    adapted = attach(injection=form, noise=0.0)
    given, coefficients = vectors(adapted), random_coefficients(adapted)
    adapted.load({"context-vectors": given, "coefficients": coefficients})
    demos = examples(4)
    batch = adapted.trainer.encoder.batch(adapted.trainer.encoder.examples(demos))
    with adapted._scope(batch):
        losses, count = adapted.trainer.losses(batch)
        (losses.sum() / count).backward()
    ours = adapted._coefficients.grad.numpy()
    leaf = torch.tensor(coefficients, requires_grad=True)
    parts = torch.as_tensor(given)

    def edit(layer, part, out):
        value = leaf[layer, part]
        if form == "linear":
            return value[1] * out + value[0] * parts[layer, part]
        if form == "add":
            return out + torch.relu(value[0]) * parts[layer, part]
        return ((1 - value[0]) * out + value[0] * parts[layer, part]) * value[1]

    reference = Reference("Llama")
    total = 0.0
    for example in demos:
        logits = reference.run(example.prompt, edit)[-1]
        token = reference.tokenizer(example.target)["input_ids"][0]
        total = total - logits.log_softmax(-1)[token] / len(demos)
    total.backward()
    np.testing.assert_allclose(ours, leaf.grad.numpy(), atol=2e-5, rtol=1e-3)
    assert np.abs(ours).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_lambda_0_and_beta_1_leave_the_logits_bit_equal(dtype, with_gradients):
    where = base(dtype=dtype)
    ids = torch.tensor([[5, 9, 11, 7], [8, 3, 3, 6]])
    with torch.no_grad():
        plain = where.model(ids).logits
    adapted = attach(where, noise=0.0)
    neutral = np.broadcast_to(np.float32([0.0, 1.0]), (3, 2, 2)).copy()
    adapted.load({"context-vectors": vectors(adapted) * 100, "coefficients": neutral})
    with torch.set_grad_enabled(with_gradients), adapted._scope(None):
        logits = where.model(ids).logits
        assert torch.equal(logits, plain)
    adapted.load({"coefficients": neutral + np.float32(1e-2)})
    with torch.no_grad(), adapted._scope(None):
        assert not torch.equal(where.model(ids).logits, plain)


def test_decoding_with_a_cache_injects_in_every_step():
    adapted = attach(train=TEXT)
    given, coefficients = vectors(adapted), random_coefficients(adapted)
    adapted.load({"context-vectors": given, "coefficients": coefficients})
    prompts = [one.prompt for one in examples(6)]
    reference = Reference("Llama")
    expected = []
    for prompt in prompts:
        text = prompt
        for _ in range(TRAIN.max_new_tokens):
            with torch.no_grad():
                token = int(reference.logits(text, given, coefficients)[-1].argmax())
            if token == reference.tokenizer.eos_token_id:
                break
            text += f" {reference.tokenizer.convert_ids_to_tokens(token)}"
        expected.append(text[len(prompt) :].strip().replace("<pad>", "").replace("<unk>", "").split())
    got = [answer.split() for answer in adapted.generate(prompts)]
    assert got == [[word for word in words if word.startswith(("w", "<x>"))] for words in expected]
    adapted.load({"coefficients": np.broadcast_to(np.float32([0, 1]), (3, 2, 2)).copy()})
    assert [answer.split() for answer in adapted.generate(prompts)] != got


def test_batches_padding_and_order_do_not_show_in_the_vectors():
    demos = examples(9)
    together = attach(train=replace(TRAIN, eval_batch_size=9)).encode(demos)
    apart = attach(train=replace(TRAIN, eval_batch_size=1)).encode(demos[::-1])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    one = attach()
    halves = (4 * one.encode(demos[:4]) + 5 * one.encode(demos[4:])) / 9
    np.testing.assert_allclose(together, halves, atol=1e-5)


def test_calibration_is_a_plain_adamw_loop_with_warm_up_times_cosine():
    adapted = attach(noise=0.0)
    given, demos = vectors(adapted), examples(10)
    adapted.load({"context-vectors": given})
    leaf = torch.tensor(adapted.parameters()["coefficients"], requires_grad=True)
    optimizer = torch.optim.AdamW([leaf], lr=1e-2, weight_decay=1e-3)
    reference, parts = Reference("Llama"), torch.as_tensor(given)
    rng = np.random.default_rng(3)
    rng.integers(2**63)  # the noise's seed
    order = rng.permutation(10)
    for step, first in enumerate(range(0, 10, 4)):
        loss, rows = 0.0, order[first : first + 4]
        for row in rows:
            logits = reference.logits(demos[row].prompt, parts, leaf)[-1]
            token = reference.tokenizer(demos[row].target)["input_ids"][0]
            loss = loss - logits.log_softmax(-1)[token] / len(rows)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 3)) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.train(demos, np.random.default_rng(3))
    end = adapted.parameters()["coefficients"]
    np.testing.assert_allclose(end, leaf.detach().numpy(), atol=1e-4)
    assert np.abs(end - [0.1, 1.0]).max() > 5e-3
    np.testing.assert_array_equal(adapted.parameters()["context-vectors"], given)


def test_noise_acts_in_training_only_and_comes_from_the_round_s_random_numbers():
    adapted, demos = attach(noise=0.5), examples(8)
    start = {"context-vectors": vectors(adapted), "coefficients": random_coefficients(adapted)}

    def trained(seed, noise):
        other = attach(noise=noise)
        other.load(start)
        return other.train(demos, np.random.default_rng(seed)), other.parameters()["coefficients"]

    assert trained(1, 0.5)[0] == trained(1, 0.5)[0]
    np.testing.assert_array_equal(trained(1, 0.5)[1], trained(1, 0.5)[1])
    assert not np.array_equal(trained(1, 0.5)[1], trained(1, 0.0)[1])
    adapted.load(start)
    silent = attach(noise=0.0)
    silent.load(start)
    assert adapted.loss(demos) == silent.loss(demos)


def test_kept_moments_go_on_where_a_fresh_optimiser_starts_anew():
    demos = examples(8)

    def second_round(resume):
        adapted = attach(noise=0.0)
        assert adapted.moments() == {}
        adapted.load({"context-vectors": vectors(adapted)})
        adapted.train(demos, np.random.default_rng(0))
        kept = adapted.moments()
        values = adapted.parameters()
        adapted.reset()
        adapted.load(values)
        if resume:
            adapted.resume(kept)
        adapted.train(demos, np.random.default_rng(1))
        return adapted.parameters()["coefficients"], adapted.moments()

    fresh, new = second_round(False)
    going_on, old = second_round(True)
    assert not np.array_equal(fresh, going_on)
    assert (float(new["0.step"]), float(old["0.step"])) == (2.0, 4.0)


def test_pca_adds_the_unit_component_of_all_layers_to_the_mean():
    demos = examples(5)
    mean, both = attach(fusion="mean").encode(demos), attach(fusion="pca").encode(demos)
    one = attach(fusion="mean")
    rows = np.stack([one.encode([demo]) for demo in demos]).astype(np.float64)
    for part in (0, 1):
        flat = rows[:, :, part].reshape(5, -1)
        _, _, right = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
        component = right[0] * np.sign(right[0][np.abs(right[0]).argmax()])
        np.testing.assert_allclose((both - mean)[:, part].ravel(), component, atol=1e-4)
    np.testing.assert_array_equal(attach(fusion="pca").encode(demos[:1]), one.encode(demos[:1]))
    # Demonstrations that are alike up to rounding have no direction; a real difference has one.
    read = torch.rand(1, 3, 2, 8, dtype=torch.float32).repeat(5, 1, 1, 1)
    rounded = torch.nextafter(read, read + torch.randint(-1, 2, read.shape))
    for dtype in (torch.float32, torch.bfloat16):
        alike = (rounded if dtype is torch.float32 else read).to(dtype).double()
        assert principal_components(alike, torch.finfo(dtype).eps).abs().max() == 0
    apart = read + 1e-5 * torch.randn(read.shape)
    assert principal_components(apart.double(), torch.finfo(torch.float32).eps).norm() == pytest.approx(
        2**0.5
    )


def test_without_vectors_or_disabled_the_base_answers_and_detach_leaves_it_as_it_was():
    where = base()
    whole = fingerprint_of(where.model)
    prompts = [one.prompt for one in examples(5)]
    adapted = attach(where, TEXT)
    alone = adapted.generate(prompts)
    with pytest.raises(ValueError, match="already carries a context adapter"):
        attach(where)
    with pytest.raises(ClientFailure, match="no context vectors"):
        adapted.train(examples(4), np.random.default_rng(0))
    with pytest.raises(ClientFailure, match="no training examples"):
        adapted.encode([])
    adapted.load({"context-vectors": vectors(adapted) * 30})
    assert adapted.generate(prompts) != alone
    with adapted.disabled():
        assert adapted.generate(prompts) == alone
    adapted.reset()
    assert adapted.generate(prompts) == alone
    assert set(adapted.parameters()) == {"coefficients"}
    adapted.detach()
    assert fingerprint_of(where.model) == whole
    assert not any(module._forward_hooks for module in where.model.modules())
    attach(where).detach()


def test_what_does_not_fit_is_named():
    adapted = attach()
    with pytest.raises(ValueError, match=r"'context-vectors' has shape \(3, 2, 4\).*needs \(3, 2, 32\)"):
        adapted.load({"context-vectors": np.zeros((3, 2, 4), np.float32)})
    with pytest.raises(ValueError, match="unknown parameter 'lora_A'"):
        adapted.load({"lora_A": np.zeros(3, np.float32)})
    encoder = tiny_models.base("Bert", labels=("no", "yes"))
    with pytest.raises(
        ValueError, match=r"adapter=context needs a causal language model.*loreft and lora fit"
    ):
        attach(encoder)
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    config = transformers.OPTConfig(ffn_dim=32, num_attention_heads=4, word_embed_proj_dim=32, **size)
    no_mlp = make_base(transformers.OPTForCausalLM(config), tiny_models.tokenizer())
    with pytest.raises(ValueError, match=r"OPTDecoderLayer has 1 attention modules and 2 other modules"):
        attach(no_mlp)
    config = transformers.BloomConfig(n_head=4, **size)
    adds_itself = make_base(transformers.BloomForCausalLM(config), tiny_models.tokenizer())
    with pytest.raises(ValueError, match=r"block 0 of BloomForCausalLM does not add the outputs"):
        attach(adds_itself)
    attach(base()).detach()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"injection": "linaer"}, r"injection='linaer' must be one of: linear, add, balance"),
        ({"fusion": "max"}, r"fusion='max' must be one of: mean, pca"),
        ({"noise": -1}, r"noise=-1 must be"),
        (
            {"initial": [0.1]},
            r"initial=\[0\.1\] must be a list of 2 numbers, lambda and beta",
        ),
        ({"initial": [0.1, 1.0, 5.0]}, r"initial=\[0\.1, 1\.0, 5\.0\] must be a list of 2"),
        ({"demonstration": "{prompt}"}, r"demonstration='\{prompt\}' must be a text with"),
        ({"demonstration": "{target} {prompt}"}, r"\{prompt\}, then \{target\}"),
    ],
)
def test_a_setting_that_cannot_be_used(settings, said):
    with pytest.raises(ValueError, match=said):
        Context(**settings)


def test_the_sites_of_a_parallel_block_and_of_one_with_post_norms():
    parallel = tiny_models.base("GPTNeoX").model
    assert residual_sites(parallel)[2] == (
        parallel.gpt_neox.layers[2].attention,
        parallel.gpt_neox.layers[2].mlp,
    )
    gemma = tiny_models.base("Gemma2").model
    block = gemma.model.layers[1]
    assert residual_sites(gemma)[1] == (block.post_attention_layernorm, block.post_feedforward_layernorm)


def test_a_first_token_of_thousands_hides_no_block_in_bf16():
    """Real models keep such a sink; its rounding is larger than what attention and MLP add to it."""
    sink = base(dtype=torch.bfloat16).model
    with torch.no_grad():
        sink.get_input_embeddings().weight[0] = 100 * torch.randn(32)
    assert len(residual_sites(sink)) == len(sink.model.layers)
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.GraniteConfig(
        num_attention_heads=4, num_key_value_heads=4, residual_multiplier=0.2, **size
    )
    with pytest.raises(ValueError, match="does not add the outputs"):
        residual_sites(transformers.GraniteForCausalLM(config).to(torch.bfloat16).eval())


def test_bf16_bases_keep_fp32_coefficients_and_learn():
    adapted = attach(base(dtype=torch.bfloat16))
    adapted.load({"context-vectors": vectors(adapted)})
    loss = adapted.train(examples(8), np.random.default_rng(0))
    values = adapted.parameters()
    assert np.isfinite(loss)
    assert {value.dtype for value in values.values()} == {np.dtype(np.float32)}
    assert not np.array_equal(values["coefficients"], np.broadcast_to(np.float32([0.1, 1.0]), (3, 2, 2)))


def test_it_takes_the_place_of_lora_on_the_same_base():
    where = base()
    Lora(rank=2).attach(where, TRAIN, seed=0).detach()
    adapted = attach(where)
    assert adapted.parameters()["coefficients"].shape == (3, 2, 2)
    assert attach(injection="add").parameters()["coefficients"].shape == (3, 2, 1)
