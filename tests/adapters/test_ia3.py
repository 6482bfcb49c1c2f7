import copy

import numpy as np
import peft
import pytest
import torch

from fedapp.adapters.ia3 import Ia3
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import fingerprint_of
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2, max_grad_norm=0.0)
KINDS = [("Llama", ()), ("GPT2", ()), ("Bert", ("no", "yes"))]


def attach(name="Llama", labels=(), base=None, **settings):
    return Ia3(**settings).attach(base or tiny_models.base(name, labels=labels), TRAIN, seed=1)


def noisy(adapted):
    """Scales that differ from 1 and from each other."""
    rng = np.random.default_rng(7)
    scales = {n: v for n, v in adapted.shapes().items() if n.endswith(".ia3_l")}
    adapted.load({n: rng.normal(1, 0.3, size=s).astype(np.float32) for n, s in scales.items()})
    return adapted


def in_peft(adapted, name, labels):
    """Peft's own IA3 with the same scales, and its parameters by our names."""
    model = copy.deepcopy(tiny_models.base(name, labels=labels).model)
    task = "SEQ_CLS" if labels else "CAUSAL_LM"
    theirs = peft.get_peft_model(model, peft.IA3Config(task_type=task)).eval()
    modules = dict(theirs.base_model.model.named_modules())
    named = {}
    for target_name, target in adapted.targets.items():
        value = modules[target.path].ia3_l["default"]
        with torch.no_grad():
            value.copy_(adapted.trained[f"{target_name}.ia3_l"].view_as(value))
        named[f"{target_name}.ia3_l"] = value
    scales = [n for n, _ in theirs.named_parameters() if ".ia3_l." in n]
    assert len(named) == len(scales)
    return theirs, named


def batch_of(adapted, labels, count=6):
    encoder = adapted.trainer.encoder
    return encoder.batch(encoder.examples(tiny_models.examples(count, labels=len(labels))))


def inputs_of(batch):
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


@pytest.mark.parametrize(("name", "labels"), KINDS)
def test_logits_and_gradients_are_those_of_peft(name, labels):
    adapted = noisy(attach(name, labels))
    theirs, named = in_peft(adapted, name, labels)
    batch = batch_of(adapted, labels)
    with torch.no_grad():
        ours = adapted.base.model(**inputs_of(batch)).logits
        torch.testing.assert_close(ours, theirs(**inputs_of(batch)).logits, atol=2e-5, rtol=2e-5)
    losses, count = adapted.trainer.losses(batch)
    (losses.sum() / count).backward()
    theirs(**inputs_of(batch), labels=batch.targets).loss.backward()
    for key, value in named.items():
        gradient = adapted.trained[key].grad
        torch.testing.assert_close(gradient, value.grad.view_as(gradient), atol=1e-5, rtol=1e-3)
    assert max(float(adapted.trained[key].grad.abs().max()) for key in named) > 1e-4


def test_training_is_that_of_a_plain_loop_around_peft():
    adapted = attach()
    theirs, named = in_peft(adapted, "Llama", ())
    optimizer = torch.optim.AdamW(named.values(), lr=1e-2, weight_decay=0.0)
    examples = tiny_models.examples(10)
    rows = adapted.trainer.encoder.examples(examples)
    rng = np.random.default_rng(3)
    rng.integers(2**63)  # the dropout's seed
    order = rng.permutation(10)
    for first in range(0, 10, 4):
        batch = adapted.trainer.encoder.batch([rows[i] for i in order[first : first + 4]])
        theirs(**inputs_of(batch), labels=batch.targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.train(examples, np.random.default_rng(3))
    for key, value in named.items():
        ours = adapted.trained[key].detach()
        torch.testing.assert_close(ours, value.detach().view_as(ours), atol=2e-5, rtol=1e-4)
        assert (ours - 1).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "labels"), KINDS)
def test_scales_of_one_are_bit_for_bit_the_base_and_detach_leaves_it_so(name, labels):
    base = tiny_models.base(name, labels=labels)
    whole = fingerprint_of(base.model)
    plain = copy.deepcopy(base.model)
    adapted = attach(base=base)
    batch = batch_of(adapted, labels)
    with torch.no_grad():
        alone = plain(**inputs_of(batch)).logits
        assert torch.equal(base.model(**inputs_of(batch)).logits, alone)
        noisy(adapted)
        assert not torch.equal(base.model(**inputs_of(batch)).logits, alone)
        with adapted.disabled():
            assert torch.equal(base.model(**inputs_of(batch)).logits, alone)
    adapted.train(tiny_models.examples(8, labels=len(labels)), np.random.default_rng(0))
    adapted.detach()
    with torch.no_grad():
        assert torch.equal(base.model(**inputs_of(batch)).logits, alone)
    assert fingerprint_of(base.model) == whole
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.model.modules())
    attach(base=base)


def test_a_loaded_adapter_gives_its_arrays_back_and_reset_the_ones():
    adapted, other = noisy(attach()), attach()
    other.load(adapted.parameters())
    assert all((other.parameters()[n] == v).all() for n, v in adapted.parameters().items())
    other.reset()
    assert all((value == 1).all() for value in other.parameters().values())
    with pytest.raises(ValueError, match="unknown parameter 'w'"):
        other.load({"w": np.ones(1, np.float32)})


def test_feed_forward_layers_scale_what_they_read_the_others_what_they_give():
    shapes = attach().shapes()
    assert shapes["layer.0.self_attn.k_proj.ia3_l"] == (16,)  # two heads of eight
    assert shapes["layer.0.mlp.down_proj.ia3_l"] == (48,)  # the MLP's inner width
    assert len(shapes) == 3 * 3


@pytest.mark.parametrize(("name", "labels"), KINDS)
def test_peft_opens_the_exported_folder_with_equal_logits(name, labels, tmp_path):
    adapted = noisy(attach(name, labels))
    adapted.train(tiny_models.examples(8, labels=len(labels)), np.random.default_rng(0))
    adapted.export(tmp_path)
    plain = tiny_models.base(name, labels=labels).model
    batch = batch_of(adapted, labels)
    with torch.no_grad():
        ours = adapted.base.model(**inputs_of(batch)).logits
        theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()(**inputs_of(batch)).logits
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_settings_that_name_no_layers_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"feedforward_modules='fc' must be null or a list"):
        Ia3(feedforward_modules="fc")
    with pytest.raises(ValueError, match=r"adapter.target_modules=.*none of these layers is found"):
        attach(target_modules=["nowhere"])
