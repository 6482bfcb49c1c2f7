"""Clients whose models, adapters or training differ (``by_client``)."""

import json

import pytest
from safetensors.numpy import load

from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from tests.federation import TOY, run_toy

SIZES = 'by_client=["adapter.size=3","adapter.size=5 train.batch_size=2"]'


def test_texts_go_round_and_change_nothing_but_what_they_say():
    config = load_config([*TOY, "num_clients=3", SIZES])
    sizes = [config.client(client)["adapter"]["size"] for client in range(3)]
    assert sizes == [3, 5, 3]
    assert config.client(1)["train"] == config["train"] | {"batch_size": 2}
    assert config.client(0)["train"] == config["train"]
    assert config.one_of_each() == [0, 1]


def test_what_depends_on_a_choice_follows_it():
    config = load_config(["model=embedded", 'by_client=["model=llama-3.2-3b"]'])
    assert config["train"]["learning_rate"] == 4e-3
    assert config.client(0)["train"]["learning_rate"] == 9e-4


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('["num_rounds=9"]', "changes num_rounds"),
        ('["adapter=lorra"]', "lorra"),
        ("7", "must be a list"),
        ("[7]", "must be a list"),
        ('["adapter.size=\'3"]', "by_client="),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(value, said):
    with pytest.raises(ConfigError, match=said):
        load_config([*TOY, f"by_client={value}"])


@pytest.mark.parametrize("num_nodes", [4, 1])
def test_every_client_works_with_its_own_config(tmp_path, num_nodes):
    run = run_toy(tmp_path / "run", "method=local", SIZES, num_nodes=num_nodes)
    sizes = {name: load(blob)["layer.0.prefix.bias"].size for name, blob in run.adapters().items()}
    assert sizes == {"client-0": 3, "client-1": 5, "client-2": 3, "client-3": 5}
    written = json.loads((tmp_path / "run" / "adapters" / "client-1" / "adapter.json").read_text())
    assert written["adapter"]["size"] == 5


def test_each_base_model_is_voted_on_by_its_own_clients(tmp_path):
    other = 'by_client=["","model.fingerprint=other"]'
    run = run_toy(tmp_path / "run", "method=local", other, "num_rounds=1")
    assert not run.warnings()
    prescribed = 'by_client=["","model.about.fingerprint=expected"]'
    run = run_toy(tmp_path / "refused", "method=local", prescribed, "num_rounds=1")
    assert any(
        "client 1 is refused: its base model is toy, this run's is expected" in w for w in run.warnings()
    )
    assert {row["client-id"] for row in run.rows("traffic")} == {0, 2}
