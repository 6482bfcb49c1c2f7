"""Bases in 8 and 4 bits; needs bitsandbytes (pip install 'fedapp[quant]') but for the messages."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.models import base as models
from fedapp.models.base import fingerprint_of, load_base

SIZE = {
    "vocab_size": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
EXAMPLES = [Example("a b a b", "b"), Example("b b a", "a"), Example("a a", "a"), Example("b a b", "b")]
LABELLED = [Example(e.prompt, "", label=index % 2) for index, e in enumerate(EXAMPLES)]
LABELS = ("no", "yes")
ADAPTERS = {"reft": Reft(rank=2, positions="f1+l1"), "lora": Lora(rank=2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A decoder and an encoder on disk, in fp32."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZE, num_key_value_heads=2))
    roberta = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SIZE))
    found = {}
    for name, model in (("lm", llama), ("classification", roberta)):
        found[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


def test_an_unknown_number_of_bits_is_named(folders):
    said = "quantization='2bit' must be one of: null, 8bit, 4bit"
    with pytest.raises(ValueError, match=said):
        load_base(folders["lm"], quantization="2bit")


def test_a_missing_bitsandbytes_is_said_in_one_line_with_its_cure(folders, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else found(name, *a)
    )
    said = r"^quantization='4bit' needs bitsandbytes: pip install 'fedapp\[quant\]'"
    with pytest.raises(ValueError, match=said) as caught:
        load_base(folders["lm"], device="cpu", quantization="4bit")
    assert "\n" not in str(caught.value)


def test_a_device_that_bitsandbytes_does_not_know_is_said_in_one_line(folders, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: object() if name == "bitsandbytes" else found(name, *a)
    )
    fake = types.ModuleType("bitsandbytes")
    fake.supported_torch_devices = {"cuda"}
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    said = "quantization='8bit': bitsandbytes cannot work on device='cpu'"
    with pytest.raises(ValueError, match=said):
        load_base(folders["lm"], device="cpu", quantization="8bit")


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("head", ["lm", "classification"])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_train_in_fp32_over_a_quantised_base_and_leave_its_bits(bits, head, kind, folders):
    pytest.importorskip("bitsandbytes")
    labels, examples = (LABELS, LABELLED) if head == "classification" else ((), EXAMPLES)
    options = {"head": head, "labels": labels, "device": "cpu", "dtype": "bfloat16", "quantization": bits}
    base = load_base(folders[head], **options)
    backbone = base.model.base_model
    packed = {name for name, value in backbone.named_parameters() if value.dtype in (torch.int8, torch.uint8)}
    assert len(packed) >= 2 * 6  # every linear layer of both blocks
    plain = load_base(folders[head], **{**options, "quantization": None})
    assert plain is not base
    assert plain.fingerprint != base.fingerprint
    train = TrainConfig(batch_size=4, max_length=16, max_new_tokens=2, learning_rate=2e-2, num_epochs=4)
    adapted = ADAPTERS[kind].attach(base, train, seed=0)
    before = adapted.loss(examples)
    adapted.train(examples, np.random.default_rng(0))
    assert {value.dtype for value in adapted.parameters().values()} == {np.dtype("float32")}
    assert adapted.loss(examples) < before
    assert len(adapted.generate([e.prompt for e in examples])) == 4
    adapted.detach()
    assert fingerprint_of(base.model, skip=base.head_parameters) == base.fingerprint
    models._loaded.clear()
    assert load_base(folders[head], **options).fingerprint == base.fingerprint


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_base_answers_nearly_as_the_whole_one(bits, folders):
    pytest.importorskip("bitsandbytes")
    ids = torch.tensor([[2, 3, 3, 2, 2, 3]])
    whole = load_base(folders["lm"], device="cpu").model
    small = load_base(folders["lm"], device="cpu", quantization=bits).model
    assert torch.equal(small.lm_head.weight, whole.lm_head.weight)  # what is outside the backbone stays
    with torch.no_grad():
        expected, found = whole(ids).logits, small(ids).logits
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert 0 < worst < {"8bit": 0.05, "4bit": 0.3}[bits]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_through_4_bits_are_those_of_the_weights_that_they_stand_for(dtype, folders):
    bnb = pytest.importorskip("bitsandbytes")
    train = TrainConfig(batch_size=4, max_length=16, max_new_tokens=2)
    models._loaded.clear()
    found, stands_for = [], {}
    for quantization in ("4bit", None):
        base = load_base(folders["lm"], device="cpu", dtype=dtype, quantization=quantization)
        if quantization is None:
            with torch.no_grad():
                for name, weight in stands_for.items():
                    base.model.get_parameter(name).copy_(weight)
        else:
            stands_for = {
                name: bnb.functional.dequantize_4bit(value.data, value.quant_state)
                for name, value in base.model.named_parameters()
                if value.dtype == torch.uint8
            }
        adapted = Reft(rank=2, positions="f1+l1").attach(base, train, seed=0)
        adapted.loss(EXAMPLES)  # as in a round: what was scored before must not change what is learned
        encoder = adapted.trainer.encoder
        batch = encoder.batch(encoder.examples(EXAMPLES))
        with adapted.armed(batch):
            adapted.trainer.losses(batch)[0].sum().backward()
        found.append((adapted.weight.grad, adapted.rotate.grad))
        adapted.detach()
    models._loaded.clear()  # its weights are no longer those of the folder
    close = {"float32": 1e-4, "bfloat16": 0.1}[dtype]
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < close
