"""The step size of every model with every adapter: the adapter's own unless the model has another."""

import pytest

from fedapp.config.choices import groups
from fedapp.config.compose import load_config

FAMILIES = ("reft", "lora", "lora_sb", "lora_mixed", "context")
USUAL = (9e-4, 3e-4, 1e-4, 3e-4, 1e-2)  # of an adapter, where the model says nothing
OTHERS = {
    "answers": (1.0, 1.0, 1e-4, 3e-4, 1e-2),
    "embedded": (4e-3, 4e-3, 1.6e-2, 2e-3, 1e-2),
    "embedded_gpt2": (4e-3, 4e-3, 1e-4, 3e-4, 1e-2),
    "embedded_icl": (4e-3, 4e-3, 1e-4, 3e-4, 1e-2),
    "minilm": (1e-3, 1e-3, 1e-3, 1e-3, 1e-2),
    "qwen2.5-0.5b": (2e-3, 3e-4, 1e-4, 3e-4, 1e-2),
    "roberta-base": (6e-4, 5e-4, 1e-4, 3e-4, 1e-2),
    "roberta-large": (6e-4, 4e-4, 4e-4, 4e-4, 1e-2),
    "toy": (0.5, 0.5, 0.5, 0.5, 1e-2),
}


@pytest.mark.parametrize("model", groups()["model"])
def test_every_adapter_has_a_step_size_on_every_model(model):
    expected = dict(zip(FAMILIES, OTHERS.get(model, USUAL), strict=True))
    adapters = groups()["adapter"]
    by_client = ",".join(f'"adapter={name}"' for name in adapters)
    config = load_config([f"model={model}", "adapter=direft", f"by_client=[{by_client}]"])
    for name in adapters:
        own = {**config, **config["client_configs"][f"adapter={name}"]}
        family = own["adapter"]["about"]["family"]
        assert own["train"]["learning_rate"] == expected[family], name
