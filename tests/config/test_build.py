"""Objects out of config nodes: every complaint begins with the setting as one types it."""

import pytest

from fedapp.config import slots
from fedapp.config.build import ConfigError, build, build_routine
from fedapp.config.compose import load_config
from fedapp.core.files import CONF
from fedapp.server.strategy import build_strategy

METHODS = "fedapp.methods.parameter_sharing"
MEAN = {"_target_": "fedapp.aggregation.Mean"}


def average(**combine):
    return {"_target_": f"{METHODS}.Average", "combine": {**MEAN, **combine}}


def complaint(node, where="method.strategy", **extra):
    with pytest.raises(ConfigError) as caught:
        build(node, where, **extra)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("node", "seen"), [(None, "null"), ("abc", "'abc'"), ([], "[]"), (3, "3")])
def test_a_node_that_is_no_mapping_is_named(node, seen):
    assert complaint(node) == f"method.strategy={seen} must be a mapping with _target_, the class to make"


def test_an_emptied_node_inside_another_is_named():
    node = {"_target_": f"{METHODS}.Average", "combine": None}
    assert complaint(node).startswith("method.strategy.combine=null must be a mapping with _target_")
    assert complaint({**node, "combine": {}}).startswith("method.strategy.combine={} must be")


def test_a_class_that_does_not_exist_comes_with_those_that_do():
    text = complaint(average(_target_="somewhere.Krum"))
    assert text.startswith(
        "method.strategy.combine._target_='somewhere.Krum' is no class for combine; known:"
    )
    assert "fedapp.aggregation.GeometricMedian" in text
    assert "fedapp.aggregation.Mean" in text
    assert "check_finite" not in text


def test_a_misspelt_class_comes_with_the_nearest():
    text = complaint(average(_target_="fedapp.aggregation.GeometricMedain"))
    assert "is no class for combine; did you mean fedapp.aggregation.GeometricMedian" in text
    text = complaint({"_target_": "fedapp.models.base.load_bsae"}, "model")
    assert "did you mean fedapp.models.base.load_base" in text


def test_a_setting_that_is_missing_is_named():
    text = complaint({"_target_": f"{METHODS}.Average"})
    assert text == f"method.strategy.combine is missing; {METHODS}.Average needs it"


@pytest.mark.parametrize(
    ("where", "node", "said"),
    [
        ("method.strategy", average(weighting="all"), "method.strategy.combine.weighting='all' must be"),
        (
            "method.strategy.combine",
            {"_target_": "fedapp.aggregation.GeometricMedian", "tolerance": "abc"},
            "method.strategy.combine.tolerance='abc' must be a number",
        ),
        (
            "train",
            {"_target_": "fedapp.core.train_config.TrainConfig", "batch_size": 0},
            "train.batch_size=0 must be",
        ),
        ("split", {"_target_": "fedapp.client.rows.SplitConfig", "max_val": -1}, "split.max_val=-1 must be"),
        (
            "adapter",
            {"_target_": "fedapp.adapters.reft.adapter.Reft", "rank": 0},
            "adapter.rank=0 must be",
        ),
        (
            "adapter",
            {"_target_": "fedapp.adapters.lora.adapter.Lora", "rank": 0},
            "adapter.rank=0 must be",
        ),
        (
            "model",
            {"_target_": "fedapp.models.base.load_base", "path": "/nope"},
            "model.path='/nope' is",
        ),
        (
            "method.routine",
            {"_target_": f"{METHODS}.ParameterSharing", "dtype": "int8"},
            "method.routine.dtype='int8' must be one of",
        ),
    ],
)
def test_a_refused_value_is_named_once_by_the_key_to_type(where, node, said):
    assert complaint(node, where).startswith(said)


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_file_shows_where_the_device_is_set(path):
    node = load_config([f"model={path.stem}"])["model"]
    if node["_target_"] == "fedapp.models.base.load_base":
        assert node["device"] == "auto"


@pytest.mark.parametrize(
    ("overrides", "begins"),
    [
        (["benchmark=arithmetic", "benchmark.tasks=[]"], "benchmark.tasks=[] must name a task"),
        (["benchmark=commonsense", "benchmark.tasks=[bolq]"], "benchmark.tasks has 'bolq'; known: boolq"),
        (["benchmark=commonsense", "benchmark.prompt=abc"], "benchmark.prompt='abc' must hold"),
        (["benchmark=embedded", "benchmark.tasks=sentiment"], "benchmark.tasks='sentiment' must be a list"),
        (["benchmark=glue_sst2", "benchmark.metrics=[rouge]"], "benchmark.metrics has 'rouge'; known:"),
        (["benchmark=embedded", "benchmark.num_train=0"], "benchmark.num_train=0 must be"),
    ],
)
def test_a_setting_is_named_with_its_place_once_whoever_checks_it(overrides, begins):
    node = load_config(overrides)["benchmark"]
    with pytest.raises(ConfigError) as caught:
        build(node, "benchmark")
    assert str(caught.value).startswith(begins)


@pytest.mark.parametrize("half", ["routine", "strategy"])
def test_a_node_that_makes_no_half_of_a_method_is_refused(half, monkeypatch):
    config = load_config([])
    others = {"routine": config["adapter"], "strategy": config["benchmark"]}  # what the slot's list lets by
    monkeypatch.setattr(slots, "admits", lambda slot, target: True)
    other = others[half]
    tree = {"method": {**config["method"], half: other}}
    make = {"routine": build_routine, "strategy": build_strategy}[half]
    with pytest.raises(ValueError, match=f"^method.{half}=.* must be a mapping with _target_, a "):
        make(tree)
