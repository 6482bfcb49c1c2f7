"""The step size of every model with every adapter: the adapter's own unless the model has another."""

import pytest
import yaml
from hydra.types import RunMode
from omegaconf import open_dict

from fedapp.config.choices import groups
from fedapp.config.compose import load_config
from fedapp.config.loader import config_loader
from fedapp.core.files import CONF

FAMILIES = ("reft", "lora", "lora_sb", "lora_mixed", "context")
USUAL = (9e-4, 3e-4, 1e-4, 3e-4, 1e-2)  # of an adapter, where the model says nothing
PUBLISHED = {"loreft_llm": 9e-4, "loreft_glue": 6e-4}  # a published recipe keeps its own on every model
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


@pytest.fixture(scope="module")
def tree():
    """The tree as Hydra composes it, with its interpolations: for all 370 pairs that takes minutes."""
    loader = config_loader()
    return loader.load_configuration("config", [], run_mode=RunMode.RUN)


def step_size(tree, model, adapter):
    with open_dict(tree):
        tree.model, tree.adapter = model, adapter
    return tree.train.learning_rate


def node(group, name):
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", groups()["model"])
def test_every_adapter_has_a_step_size_on_every_model(model, tree):
    expected = dict(zip(FAMILIES, OTHERS.get(model, USUAL), strict=True)) | PUBLISHED
    for name in groups()["adapter"]:
        adapter = node("adapter", name)
        assert step_size(tree, node("model", model), adapter) == expected[adapter["about"]["family"]], name


def test_a_composed_run_has_the_step_size_of_its_pair():
    config = load_config(["model=minilm", 'by_client=["adapter=lora","adapter=lora_mixed model=toy"]'])
    rates = [config.client(client)["train"]["learning_rate"] for client in range(2)]
    assert rates == [1e-3, 0.5]


@pytest.mark.parametrize(
    ("adapter", "positions", "tied", "rank"),
    [("loreft_llm", "f7+l7", True, 8), ("loreft_glue", "f3", False, 1)],
)
def test_refts_published_recipe_reaches_the_training(adapter, positions, tied, rank):
    # Source: https://arxiv.org/abs/2404.03592 and the commands of pyreft.
    config = load_config([f"adapter={adapter}"])
    made = config["adapter"]
    assert (made["positions"], made["tied"], made["rank"], made["layers"]) == (positions, tied, rank, "all")
    train = config["train"]
    assert (train["batch_size"], train["warmup_ratio"], train["schedule"]) == (32, 0.1, "linear")
    assert (train["learning_rate"], train["weight_decay"]) == (PUBLISHED[adapter], 0.0)
