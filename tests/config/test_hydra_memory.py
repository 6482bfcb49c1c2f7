"""What tests are told of ``conf/`` is what Hydra makes of it: ``tests/hydra_memory.py`` saves time alone."""

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedapp.config.loader import config_loader
from fedapp.core import files
from tests import hydra_memory

WORDS = (
    ["method=fedit", "train.learning_rate=3", "+train.foo=2"],
    ["experiment=robustness", "method=fedavg", "seed=2", "++x.y=[1]"],
    ["benchmark=trec", "model=llama-3-8b", "partitioner=dirichlet", "~train.warmup_ratio"],
    ["method=no_such"],
    ["method={a: 1}"],
    ["adapter@foo=lora"],
)


def composed(words):
    """The whole tree but for Hydra's own node, or what Hydra says against it."""
    try:
        tree = config_loader().load_configuration("config", list(words), run_mode=RunMode.RUN)
        with open_dict(tree):
            tree.pop("hydra")
        return OmegaConf.to_container(tree, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture
def by_hydra(monkeypatch):
    """What each list of words gives without any memory."""
    with monkeypatch.context() as patch:
        patch.setattr(hydra_memory.hydras_loader, "create_defaults_list", hydra_memory.LIST_BY_HYDRA)
        patch.setattr(hydra_memory.Loader, "_compose_config_from_defaults_list", hydra_memory.TREE_BY_HYDRA)
        return [composed(words) for words in WORDS]


def test_remembered_trees_are_those_of_hydra_the_first_time_and_later(by_hydra):
    for _ in range(2):
        assert [composed(words) for words in WORDS] == by_hydra


def test_a_tree_that_is_written_to_is_not_the_next_one():
    first = config_loader().load_configuration("config", ["method=fedit"], run_mode=RunMode.RUN)
    first.train.learning_rate = 99.0
    assert composed(["method=fedit"])["train"]["learning_rate"] != 99.0


def test_another_conf_is_read_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CONF", tmp_path)
    for number in (1, 2):
        (tmp_path / "config.yaml").write_text(f"a: {number}\n")
        assert composed([]) == {"a": number}
