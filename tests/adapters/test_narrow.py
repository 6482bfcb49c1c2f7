"""Products with an update's narrow matrices, in each type of base."""

import pytest
import tiny_models
import torch

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.lora.mixed import LoraMixed
from fedapp.adapters.lora.narrow import narrow_linear
from fedapp.adapters.lora.sb import LoraSb
from fedapp.core.train_config import TrainConfig

UPDATES = {"lora": Lora(), "lora_sb": LoraSb(rank=4, init="svd_weight"), "lora_mixed": LoraMixed()}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_over_bfloat16_the_weight_is_rounded_and_its_gradient_is_fp32():
    inputs, weight = drawn(5, 7, 32).bfloat16().requires_grad_(), drawn(4, 32, seed=1).requires_grad_()
    result = narrow_linear(inputs, weight)
    expected = (inputs.double() @ weight.bfloat16().double().T).bfloat16()
    torch.testing.assert_close(result, expected, rtol=2**-8, atol=1e-6)
    result.float().sum().backward()
    assert result.dtype == inputs.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    wanted = inputs.detach().float().sum((0, 1)).expand(4, -1)
    torch.testing.assert_close(weight.grad, wanted, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_over_other_types_the_product_is_fp32_and_small_gradients_live(dtype):
    inputs, weight = drawn(5, 32).to(dtype), drawn(4, 32, seed=1).requires_grad_()
    result = narrow_linear(inputs, weight)
    assert torch.equal(result, inputs.float() @ weight.T)
    (1e-9 * result).sum().backward()
    torch.testing.assert_close(weight.grad, 1e-9 * inputs.float().sum(0).expand(4, -1))


@pytest.mark.parametrize("name", UPDATES)
def test_over_bfloat16_no_fp32_copy_of_a_layers_input_is_kept_for_the_backward_pass(name):
    base = tiny_models.base(dtype=torch.bfloat16)
    UPDATES[name].attach(base, TrainConfig(), seed=0)
    layer, kept = base.model.model.layers[0].self_attn.q_proj, []
    inputs = drawn(64, layer.in_features).bfloat16().requires_grad_()

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(inputs)
    assert kept
    assert not [t for t in kept if t.dtype == torch.float32 and t.numel() >= inputs.numel()]


def test_the_update_over_a_bf16_base_is_as_near_to_the_fp32_product_as_bf16_is():
    base = tiny_models.base(dtype=torch.bfloat16)
    adapted = Lora(target_modules=["q_proj"]).attach(base, TrainConfig(), seed=0)
    layer = base.model.model.layers[0].self_attn.q_proj
    b = layer.lora_B["default"].weight
    with torch.no_grad():
        b.copy_(drawn(*b.shape))
    inputs = drawn(64, layer.in_features, seed=2).bfloat16()
    a, scale = layer.lora_A["default"].weight, layer.scaling["default"]
    exact = layer.get_base_layer()(inputs).float() + inputs.float() @ a.T @ b.T * scale
    found = layer(inputs).float()
    assert (found - exact).norm() < 2**-7 * exact.norm()
    assert (layer.get_base_layer()(inputs).float() - exact).norm() > 0.1 * exact.norm()
    adapted.detach()
