"""A relative path means the folder it was typed in, whoever reads it and wherever."""

import json
import shlex
from pathlib import Path

import pytest

from fedapp.cli.main import main
from fedapp.client import workplace as workplaces
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.planning.job import absolute_paths, make_job
from tests import tiny_models


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's folder: two models, data, answers."""
    for name in ("models/tiny", "other model"):
        tiny_models.model("Llama").save_pretrained(tmp_path / name)
        tiny_models.tokenizer().save_pretrained(tmp_path / name)
    task = tmp_path / "data" / "task"
    task.mkdir(parents=True)
    lines = [json.dumps({"prompt": f"w{n} w1", "target": f"w{n % 3}"}) for n in range(12)]
    for split in ("train", "test"):
        (task / f"{split}.jsonl").write_text("\n".join(lines))
    (tmp_path / "answers.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recomposed(monkeypatch, *words):
    """The config as the apps compose it, in another folder."""
    job = make_job(words, load_config(words))
    monkeypatch.chdir("/")
    return load_config(shlex.split(job.overrides))


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("model.path", "models/tiny", "models/tiny"),
        ("model.path", "./models/tiny", "models/tiny"),
        ("model.path", "'other model'", "other model"),
        ("model.path", ".", ""),
        ("benchmark.data_dir", "data", "data"),
    ],
)
def test_a_path_is_that_of_the_folder_it_was_typed_in(key, value, found, here, monkeypatch):
    config = recomposed(monkeypatch, "model=local", "benchmark=own", f"{key}={value}", "runs_dir=runs")
    group, name = key.split(".")
    assert config[group][name] == str(here / found)
    assert config["run_dir"].startswith(str(here / "runs"))


def test_an_answer_file_is_found_too_and_names_stay_names(here, monkeypatch):
    for path in ("models/of-somebody", "asset:embedded"):
        assert "model.path" not in absolute_paths(load_config(["model=local", f"model.path={path}"]))
    words = ["adapter=black_box", "method=semantic_consensus", "benchmark=toy"]
    config = recomposed(monkeypatch, "model=answers", "model.path=answers.jsonl", *words)
    assert config["model"]["path"] == str(here / "answers.jsonl")


def test_what_clients_have_differently_too(here, monkeypatch):
    texts = """["model.path=models/tiny","adapter.rank=2","model.path='./other model'"]"""
    words = ["model=local", "model.path=models/tiny", "adapter=lora", "method=flora", f"by_client={texts}"]
    config = recomposed(monkeypatch, *words)
    paths = [config.client(client)["model"]["path"] for client in range(3)]
    assert paths == [str(here / "models/tiny"), str(here / "models/tiny"), str(here / "other model")]
    assert config.client(1)["adapter"]["rank"] == 2


def test_by_client_is_left_alone_where_no_path_is_in_it(here):
    words = ["adapter=lora", "method=flora", 'by_client=["adapter.rank=2","adapter.rank=4"]']
    job = make_job(words, load_config(words))
    assert [word for word in shlex.split(job.overrides) if word.startswith("by_client=")] == words[-1:]


def test_a_run_and_its_export_find_their_model_from_elsewhere(here, tmp_path_factory, monkeypatch):
    words = ["model=local", "model.path=models/tiny", "benchmark=own", "benchmark.data_dir=data"]
    words += [
        "adapter=lora",
        "method=fedit",
        "num_clients=2",
        "num_rounds=1",
        'by_client=["","model.path=models/tiny"]',
    ]
    words += ["train.max_steps=1", "split.max_test=2", "train.max_length=64", "train.max_new_tokens=4"]
    words += ["engine=local", "run_dir=run"]
    assert main(["run", *words]) == 0
    workplaces.close()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for client in ("client-0", "client-1"):
        assert main(["export", str(here / "run" / "adapters" / client), client]) == 0


def test_a_folder_that_another_process_makes_at_the_same_moment_is_its_own(tmp_path, monkeypatch):
    words, mkdir = ["model=toy", "adapter=toy", "benchmark=toy", f"run_dir={tmp_path / 'run'}"], Path.mkdir

    def be_overtaken(path, *arguments, **settings):
        mkdir(path)
        return mkdir(path, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", be_overtaken)
    with pytest.raises(ConfigError, match=r"run_dir='.*run' was made by another process at this moment"):
        make_job(words, load_config(words))
