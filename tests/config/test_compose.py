"""Composing conf/ and building objects from it; every error is one line that names the setting."""

import itertools
import re
from pathlib import Path

import pytest

from fedapp.config.build import ConfigError, build
from fedapp.config.choices import groups
from fedapp.config.compose import load_config
from fedapp.config.run import folder_setting
from fedapp.core.files import CONF

CHOICES = [(group, name) for group, names in groups().items() for name in names]


def side_by_side():
    """Every choice of every group once, in as few trees as the largest group has choices."""
    columns = [[f"{group}={name}" for name in names] for group, names in groups().items()]
    return [[word for word in row if word] for row in itertools.zip_longest(*columns)]


@pytest.mark.parametrize("words", side_by_side(), ids=" ".join)
def test_every_choice_of_every_group_composes(words):
    config = load_config(words)
    assert config.run.num_clients >= 1
    assert "_target_" in config["method"]["strategy"]
    for group, _, name in (word.partition("=") for word in words):
        if group != "experiment":  # its settings stand at the top of the tree
            assert config[group]["about"]["name"] == name


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_file_opens_with_the_command_that_runs_it(group, name):
    lines = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert re.match(rf"# ((pip install .*|make models) && )?fedapp run .*{group}={name}\b", first), first


def test_an_override_reaches_its_place():
    config = load_config(["num_rounds=7", "method.strategy.combine.tolerance=0.5"])
    assert config["num_rounds"] == 7
    assert config["method"]["strategy"]["combine"]["tolerance"] == 0.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method=fedref", r"method=fedref does not exist; did you mean fedreft"),
        ("benchmark=embeded", r"benchmark=embeded does not exist; did you mean embedded"),
        ("model=lama", r"model=lama does not exist"),
        ("num_round=3", r"num_round is not a setting; did you mean num_rounds"),
        ("train.learning_rat=3", r"train.learning_rat is not a setting; did you mean train.learning_rate"),
        ("num_clients=0", r"num_clients=0 must be a whole number of at least 1"),
        ("num_clients=two", r"num_clients='two' must be a whole number"),
        ("seed=-1", r"seed=-1 must be a whole number of at least 0"),
        ("clients_per_round=9", r"clients_per_round=9 must not exceed num_clients=4"),
        ("min_replies=5", r"min_replies=5 must not exceed the 4 clients"),
        ("round_timeout=0", r"round_timeout=0 must be a number of seconds"),
        ("num_rounds=[1", r"'num_rounds=\[1' cannot be read: a bracket or a quotation mark is not closed"),
        ("num_rounds='1", r"a bracket or a quotation mark is not closed"),
        ("=3", r"'=3' cannot be read: a setting is written KEY=VALUE"),
        ("{", r"'{' cannot be read: a setting is written KEY=VALUE"),
        ("", r"'' cannot be read: a setting is written KEY=VALUE"),
        ("method", r"'method' cannot be read: a setting is written KEY=VALUE"),
        ("method=", r"method= names no choice; known: .*fedavg"),
        ("experiment=rnk", r"experiment=rnk does not exist; did you mean rank"),
        ("+experiment=rank", r"a group is chosen without \+, experiment=rank"),
        ("a b=3", r"'a b' is not the name of a setting"),
        ("train.schedule=a)b(", r"put the value in quotation marks, in a shell \"train.schedule='…'\""),
        ("num_rounds=1,2", r"num_rounds=1,2 gives several values: use --multirun"),
        ("method=fedavg,local", r"method=fedavg,local gives several values: use --multirun"),
        ("seed=range(1,3)", r"use --multirun"),
        ("~seed", r"~seed cannot be used: no run can do without seed"),
        ("~method", r"~method cannot be used: no run can do without method"),
        ("~model.about.name", r"no run can do without model.about.name"),
        ("~nope.x", r"nope.x is not a setting"),
        ("seed=${nope}", r"Interpolation key 'nope' not found"),
    ],
)
def test_a_bad_override_is_explained_in_one_line_and_plain_words(override, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_config([override])
    assert not re.search(r"\n|https?:|Lexer|EOF|viable|object_type|search path", str(caught.value))


def test_a_key_with_a_default_of_its_own_may_be_removed():
    assert "warmup_ratio" not in load_config(["~train.warmup_ratio"])["train"]


@pytest.mark.parametrize("value", ["", " ", None, True, []])
def test_a_setting_that_names_no_folder_is_refused(value):
    with pytest.raises(ConfigError, match=r"^runs_dir=.* must name a folder$"):
        folder_setting({"runs_dir": value}, "runs_dir")


def test_a_misspelt_key_of_a_class_is_named_with_its_place():
    node = {"_target_": "fedapp.methods.mixing.FixedMixing", "local_wieght": 0.5}
    with pytest.raises(ConfigError, match=r"method.mixing.local_wieght .* did you mean local_weight"):
        build(node, "method.mixing")


def test_a_value_that_a_class_refuses_is_named_with_its_place():
    node = {"_target_": "fedapp.methods.mixing.FixedMixing", "local_weight": 2}
    with pytest.raises(ConfigError, match=r"^method.mixing.local_weight=2 must be a number within"):
        build(node, "method.mixing")


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "builtins.eval", "fedappx.evil", None])
def test_a_config_from_the_network_cannot_name_other_code(target):
    with pytest.raises(ConfigError, match=r"^adapter._target_=.* is no class for adapter; "):
        build({"_target_": target, "command": "true"}, "adapter")


def test_a_module_reached_through_the_project_is_not_a_class_of_it():
    with pytest.raises(ConfigError, match="_target_"):
        build({"_target_": "fedapp.records.folder.os.system", "command": "true"}, "adapter")
    with pytest.raises(ConfigError, match="_target_"):
        build({"_target_": "fedapp.records.folder.subprocess", "x": 1}, "adapter")


def test_no_method_derives_from_another():
    for path in sorted(Path(CONF / "method").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^  - (?!override )", text, re.MULTILINE), f"{path.name} inherits"
