"""Values of the wrong kind: one line that names the setting, the value and what would be right."""

import os

import pytest
import torch

from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.run import RunSettings
from fedapp.core.checks import require_choice, require_number
from fedapp.core.train_config import TrainConfig
from fedapp.planning.preflight import check_resources


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", [0, 0.5, 1], [-0.1, 1.1]),
        ("[0, 1)", [0, 0.5], [1, 1.1]),
        ("(0, inf)", [1e-30, 10**400], [0, float("inf")]),
        ("(0, inf]", [float("inf")], [0]),
    ],
)
def test_an_interval_holds_what_mathematics_says(interval, inside, outside):
    for value in inside:
        require_number("x", value, interval)
    for value in [*outside, float("nan"), "1", None, True, [1]]:
        with pytest.raises(ValueError, match="^x=.* must be a number"):
            require_number("x", value, interval)


def test_a_choice_may_be_anything_but_must_be_one_of_the_known():
    require_choice("x", "a", {"a": 1})
    for value in ("b", None, ["a"], {}):
        with pytest.raises(ValueError, match="^x=.* must be one of: a$"):
            require_choice("x", value, {"a": 1})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 2.5}, "batch_size=2.5 must be a whole number of at least 1"),
        ({"batch_size": "abc"}, "batch_size='abc' must be a whole number"),
        ({"num_epochs": 1.5}, "num_epochs=1.5 must be a whole number"),
        ({"num_epochs": True}, "num_epochs=True must be a whole number"),
        ({"max_steps": -1}, "max_steps=-1 must be a whole number of at least 0"),
        ({"max_length": 0}, "max_length=0 must be a whole number of at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number of at least 1"),
        ({"max_new_tokens": -3}, "max_new_tokens=-3 must be"),
        ({"eval_batch_size": None}, "eval_batch_size=null must be"),
        ({"learning_rate": "abc"}, "learning_rate='abc' must be a number greater than 0"),
        ({"learning_rate": 0}, "learning_rate=0 must be"),
        ({"learning_rate": float("inf")}, "learning_rate=inf must be"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be a number of at least 0"),
        ({"max_grad_norm": "abc"}, "max_grad_norm='abc' must be a number of at least 0"),
        ({"warmup_ratio": 1.5}, r"warmup_ratio=1.5 must be a number within \[0, 1\]"),
        ({"schedule": ["linear"]}, r"schedule=\['linear'\] must be one of: constant, linear"),
    ],
)
def test_bad_settings_of_the_training_are_refused(settings, said):
    with pytest.raises(ValueError, match=f"^{said}") as caught:
        TrainConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("num_cpus_per_client=abc", "num_cpus_per_client='abc' must be a whole number of at least 1"),
        ("num_cpus_per_client=0", "num_cpus_per_client=0 must be a whole number of at least 1"),
        ("num_gpus_per_client=-1", "num_gpus_per_client=-1 must be a number of at least 0"),
        ("num_gpus_per_client=abc", "num_gpus_per_client='abc' must be a number of at least 0"),
        ("num_gpus_per_client=1.5", "num_gpus_per_client=1.5 must be whole if above 1"),
    ],
)
def test_bad_reservations_are_refused_whatever_the_engine(override, said):
    for engine in ("local", "flwr"):
        with pytest.raises(ConfigError, match=f"^{said}$"):
            load_config([f"engine={engine}", override])


def test_more_cores_than_there_are_are_refused_where_the_engine_starts(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    check_resources(RunSettings(num_cpus_per_client=2))
    settings = RunSettings(num_cpus_per_client=99)  # a server elsewhere may compose it
    said = "^num_cpus_per_client=99 must not exceed this machine's 2 CPU cores$"
    with pytest.raises(ConfigError, match=said):
        check_resources(settings)


def test_more_gpus_than_there_are_are_refused_where_the_engine_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_resources(RunSettings(num_gpus_per_client=0))
    with pytest.raises(ConfigError, match=r"^num_gpus_per_client=0.5 must not exceed 0: no GPU is visible"):
        check_resources(RunSettings(num_gpus_per_client=0.5))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_resources(RunSettings(num_gpus_per_client=2))
    with pytest.raises(ConfigError, match=r"^num_gpus_per_client=3 must not exceed the 2 visible here$"):
        check_resources(RunSettings(num_gpus_per_client=3))
