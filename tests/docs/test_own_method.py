"""The method that docs/own-method.md makes: its two files as they stand there, run and worked out by hand."""

import re
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest

from fedapp.config import slots
from fedapp.core import files
from tests.federation import run_toy

MODULE = "fedapp.aggregation.trimmed"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The package and ``conf/`` with the page's files in them; gives the module."""
    text = (files.ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
    made = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert set(made) == {"fedapp/aggregation/trimmed.py", "conf/method/fedtrimmed.yaml"}
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(made["fedapp/aggregation/trimmed.py"], "trimmed.py", "exec"), module.__dict__)
    conf = shutil.copytree(files.CONF, tmp_path / "conf")
    (conf / "method" / "fedtrimmed.yaml").write_text(made["conf/method/fedtrimmed.yaml"])
    monkeypatch.setattr(files, "CONF", conf)
    for remembered in (slots.choice, slots._shipped):
        remembered.cache_clear()
    yield module
    for remembered in (slots.choice, slots._shipped):
        remembered.cache_clear()


def uploads(*values):
    return [{"a": np.array([value, 2.0], np.float32)} for value in values]


def test_the_rule_leaves_out_the_highest_and_the_lowest(page):
    rule = page.TrimmedMean()
    assert rule.combine(uploads(-1000, 1, 3, 1000))["a"].tolist() == [2, 2]
    assert [made["a"][0] for made in rule.leave_one_out(uploads(-1000, 1, 3, 1000))] == [3, 3, 1, 1]
    with pytest.raises(ValueError, match="trim=1 leaves nothing of 2 uploads"):
        rule.combine(uploads(1, 2))


def test_the_method_runs_and_all_but_me_takes_the_rule_as_the_page_says(page, tmp_path):
    words = ("method=fedtrimmed", "num_rounds=1", "num_clients=5")
    arrays = run_toy(tmp_path / "a", *words, num_nodes=5).adapters()
    assert {arrays[f"client-{client}"] for client in range(5)} == {arrays["shared"]}
    target = "method.strategy._target_=fedapp.methods.parameter_sharing.AllButMe"
    others = run_toy(tmp_path / "b", *words, target, num_nodes=5).adapters()
    assert len({others[f"client-{client}"] for client in range(5)}) > 1
