"""Mistakes are found before an engine starts."""

import pytest

from fedapp.cli.main import main
from fedapp.cli.output import USAGE
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.models.base import load_base
from fedapp.planning import preflight

TOY = ("model=toy", "adapter=toy", "benchmark=toy")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size=0", r"train\.batch_size=0"),
        ("split.test=al", r"split\.test='al'"),
        ("score.splits=[tst]", r"score\.splits='tst' must be one of: validation, test"),
        ("score.splits=test", r"score\.splits='test' must be a list"),
        ("score.base=1", r"score\.base=1 must be true or false"),
        ("score=null", r"score=null cannot be used: score must hold splits"),
        ("split=null", r"split=null must hold settings"),
        ("+method.routine.foo=1", r"foo"),
        ("method.strategy._target_=fedapp.aggregation.Mean", r"method\.strategy"),
        ("num_clients=2000", r"num_clients=2000"),
        ("partitioner=distinct_task num_clients=3", r"num_clients=3, .*set num_clients="),
        ("benchmark=own", r"benchmark\.data_dir=None"),
        ("method=fedct method.strategy.vote.min_votes=5", r"vote\.min_votes=5 is more than num_clients=4"),
        (
            "method=semantic_consensus method.strategy.vote.representative=likelihood",
            r"representative='likelihood' needs clients that rate .* method\.routine\.likelihoods=true",
        ),
        (
            "method.task=x method=ifed_icl",
            r"strategy\.memory\.task='x' needs store_dir",
        ),
        ("method.strategy.memory.on_hit=extend method=ifed_icl", r"on_hit='extend' needs store_dir"),
        ("split.val_share=0", r"client 0 has \d+ training rows and no validation row.*split\.val_share=0"),
    ],
)
def test_a_setting_that_cannot_be_used(override, said):
    overrides = [one for one in TOY if one.split("=")[0] != override.split("=")[0]]
    with pytest.raises(ConfigError, match=said) as caught:
        preflight.check(load_config([*overrides, *override.split()]), with_model=False)
    assert "\n" not in str(caught.value)


def test_what_only_the_base_model_shows():
    config = load_config(["adapter.rank=1000"])
    preflight.check(config, with_model=False)
    with pytest.raises(ConfigError, match=r"rank=1000 must be within 1 and the model's hidden size 160"):
        preflight.check(config, with_model=True)


@pytest.mark.parametrize("adapter", ["lora", "lora_sb", "loreft", "context", "few_shot", "black_box"])
def test_adapters_of_real_models_are_told_that_the_toy_has_no_weights(adapter):
    config = load_config([*(word for word in TOY if "adapter" not in word), f"adapter={adapter}"])
    with pytest.raises(ConfigError, match=r"^model=toy has no weights: it goes with adapter=toy, ") as caught:
        preflight.check(config, with_model=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [("injection", ("linear", "balance")), ("fusion", ("mean", "pca"))],
)
def test_clients_that_read_and_inject_differently_are_refused(name, values):
    clients = ",".join(f'"adapter.{name}={value}"' for value in values)
    config = load_config(["model=embedded_icl", "method=ifed_icl", f"by_client=[{clients}]"])
    with pytest.raises(ConfigError, match=rf"by_client gives adapter\.{name}=.* one value"):
        preflight.check(config, with_model=False)
    noise = 'by_client=["adapter.noise=0","adapter.noise=0.1"]'
    preflight.check(load_config(["model=embedded_icl", "method=ifed_icl", noise]), with_model=False)


def test_the_base_model_is_left_as_it_was():
    config = load_config([])
    preflight.check(config, with_model=True)
    base = load_base("asset:embedded", fingerprint=config["model"]["about"]["fingerprint"])
    assert not any(block._forward_hooks for block in base.model.modules())
    assert getattr(base.model, "_fedapp_adapter", None) is None


def test_the_command_leaves_nothing_behind(tmp_path, capsys):
    words = ["run", "engine=local", *TOY, "train.batch_size=0", f"runs_dir={tmp_path / 'runs'}"]
    assert main(words) == USAGE
    assert "train.batch_size=0" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_clients_that_send_texts_may_differ_in_adapter_and_rank():
    by_client = 'by_client=["adapter=loreft","adapter=lora adapter.rank=4","adapter=black_box"]'
    words = ["benchmark=embedded_instructions", "engine=local", by_client]
    preflight.check(load_config(["method=semantic_consensus", *words]), with_model=False)
    with pytest.raises(ConfigError, match="one rank on all clients; .* fedct, .*semantic_consensus"):
        preflight.check(load_config(["method=fedit", *words]), with_model=False)
