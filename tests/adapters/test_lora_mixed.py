import numpy as np
import pytest
import torch

from fedapp.adapters.lora.mixed import LoraMixed
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import fingerprint_of
from tests import tiny_models

TRAIN = TrainConfig(batch_size=4, max_length=48, max_new_tokens=4, learning_rate=1e-2, max_grad_norm=0.0)
EXAMPLES = tiny_models.examples(8)


def attach(base=None, **settings):
    return LoraMixed(**{"rank": 2, "alpha": 6.0, **settings}).attach(
        base or tiny_models.base(), TRAIN, seed=1
    )


def filled():
    """An adapter in which no parameter is zero, the others' slot loaded."""
    adapted = attach()
    rng = np.random.default_rng(7)
    shapes = {n: v.shape for n, v in {**adapted.trained, **adapted.frozen}.items()}
    adapted.load({n: rng.normal(scale=0.3, size=s).astype(np.float32) for n, s in shapes.items()})
    return adapted


class Gated(torch.nn.Module):
    """The formula, by hand: both full updates are formed and weighted token by token."""

    def __init__(self, linear, given):
        super().__init__()
        self.linear = linear
        self.parts = torch.nn.ParameterDict({n: torch.from_numpy(v) for n, v in given.items()})

    def forward(self, x):
        p = self.parts
        gate = torch.softmax(x @ p["mixer"].T, dim=-1)
        others, own = p["others_B"] @ p["others_A"], p["lora_B"] @ p["lora_A"]
        return self.linear(x) + 6.0 / 2 * (gate[..., :1] * (x @ others.T) + gate[..., 1:] * (x @ own.T))


def reference(adapted):
    model = tiny_models.model("Llama").eval()
    for name, target in adapted.targets.items():
        prefix = f"{name}."
        given = {n.removeprefix(prefix): v for n, v in adapted.parameters().items() if n.startswith(prefix)}
        parent, _, leaf = target.path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Gated(model.get_submodule(target.path), given))
    return model


def test_loss_and_gradients_are_those_of_the_formula():
    adapted = filled()
    theirs = reference(adapted)
    batch = adapted.trainer.encoder.batch(adapted.trainer.encoder.examples(EXAMPLES))
    losses, count = adapted.trainer.losses(batch)
    ours = losses.sum() / count
    ours.backward()
    expected = theirs(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets
    ).loss
    expected.backward()
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    for name, target in adapted.targets.items():
        parts = theirs.get_submodule(target.path).parts
        for role in ("lora_A", "lora_B", "mixer"):
            gradient = adapted.trained[f"{name}.{role}"].grad
            torch.testing.assert_close(gradient, parts[role].grad, atol=1e-5, rtol=1e-3)
            assert gradient.abs().max() > 1e-5


def test_it_starts_as_the_base_and_an_absent_or_zero_slot_adds_nothing():
    adapted = attach()
    with adapted.disabled():
        alone = adapted.loss(EXAMPLES)
    assert adapted.loss(EXAMPLES) == pytest.approx(alone, abs=1e-6)
    adapted.train(EXAMPLES, np.random.default_rng(0))
    trained = adapted.loss(EXAMPLES)
    assert trained < alone - 1e-3
    assert not [name for name in adapted.parameters() if ".others_" in name]
    adapted.load({name: np.zeros(value.shape, np.float32) for name, value in adapted.frozen.items()})
    assert adapted.loss(EXAMPLES) == pytest.approx(trained, abs=1e-6)
    adapted.load({name: np.ones(value.shape, np.float32) for name, value in adapted.frozen.items()})
    assert abs(adapted.loss(EXAMPLES) - trained) > 1e-3


def test_training_leaves_the_others_alone_and_moves_the_rest():
    adapted = filled()
    start, whole = adapted.parameters(), fingerprint_of(adapted.base.model)
    adapted.train(EXAMPLES, np.random.default_rng(0))
    for name, value in adapted.parameters().items():
        assert (value == start[name]).all() == (".others_" in name), name
    assert fingerprint_of(adapted.base.model) == whole


def test_reset_empties_the_slot_and_the_seed_decides_the_start():
    adapted = attach()
    start = adapted.parameters()
    adapted.load(filled().parameters())
    adapted.reset()
    assert adapted.parameters().keys() == start.keys() == attach().parameters().keys()
    assert all((adapted.parameters()[name] == value).all() for name, value in start.items())
    assert all((attach().parameters()[name] == value).all() for name, value in start.items())
    assert all(not value.any() for value in adapted.frozen.values())


def test_detach_removes_the_hooks_and_dropout_acts_in_training_only():
    adapted = attach(dropout=0.5)
    adapted.train(EXAMPLES, np.random.default_rng(0))
    assert adapted.loss(EXAMPLES) == adapted.loss(EXAMPLES)
    plain = attach()
    plain.train(EXAMPLES, np.random.default_rng(0))
    name = "layer.0.self_attn.q_proj.lora_B"
    assert (plain.parameters()[name] != adapted.parameters()[name]).any()
    adapted.detach()
    assert not any(module._forward_hooks for module in adapted.base.model.modules())


def test_export_says_in_one_line_what_is_possible(tmp_path):
    with pytest.raises(ValueError, match="no peft adapter.*adapter.safetensors") as caught:
        attach().export(tmp_path)
    assert "\n" not in str(caught.value)
