"""Mistakes are found before an engine starts."""

import json

import pytest
import torch

from fedapp.adapters.lora.adapter import LoraAdapted
from fedapp.cli.main import main
from fedapp.cli.output import USAGE
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.models.base import load_base
from fedapp.planning import bases, preflight
from tests import tiny_models

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


@pytest.fixture
def rows(tmp_path):
    """Own data: a task of questions with words for answers."""
    folder = tmp_path / "data" / "task"
    folder.mkdir(parents=True)
    for split, first in (("train", 0), ("test", 20)):
        rows = [(f"w{first + n} " * (n + 1), f"w{n % 3}") for n in range(12)]
        lines = [json.dumps({"prompt": prompt, "target": target}) for prompt, target in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return [
        "benchmark=own",
        f"benchmark.data_dir={tmp_path / 'data'}",
        "num_clients=2",
        "train.max_new_tokens=4",
    ]


def save(folder, name, labels=0):
    tiny_models.model(name, labels=labels).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return f"model.path={folder}"


def test_any_folder_is_a_model_and_what_it_cannot_read_is_said(rows, tmp_path):
    words = ["model=local", save(tmp_path / "m", "Llama"), "adapter=lora", "method=fedit", *rows]
    (note,) = preflight.check(load_config(words), with_model=True)
    assert note == (
        f"train.max_length=512 is more than model.path='{tmp_path / 'm'}' can read: its 64 tokens hold"
    )
    assert preflight.check(load_config([*words, "train.max_length=64"]), with_model=True) == []
    with pytest.raises(ConfigError, match=r"^train\.max_new_tokens=64 leaves no room for a prompt"):
        preflight.check(load_config([*words, "train.max_new_tokens=64"]), with_model=False, with_files=True)


def test_files_are_looked_at_without_reading_weights(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "Workplace", lambda *_: pytest.fail("loaded"))
    words = ["model=local", save(tmp_path / "m", "Llama"), "adapter=lora", "method=fedit", *rows]
    preflight.look_ahead(load_config([*words, "engine=flwr"]))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    for engine in ("flwr", "local"):
        with pytest.raises(ConfigError, match=r"^model\.path=.*model\.safetensors is a Git-LFS pointer"):
            preflight.look_ahead(load_config([*words, f"engine={engine}"]))


def test_positions_behind_the_padding_id_are_counted(tmp_path):
    words = ["model=local", save(tmp_path / "m", "Roberta", labels=3), "model.head=classification"]
    words += ["benchmark=embedded_text_classification", "method=fedit", "adapter=lora"]
    config = load_config([*words, "train.max_length=70"])
    notes = preflight.check(config, with_model=True)  # the longest rows of the benchmark fill all of it
    assert any("max_length=70 is more than" in note and "69 tokens hold" in note for note in notes)
    assert any("(3 labels) is not used" in note for note in notes)
    short = preflight.check(load_config([*words, "train.max_length=69"]), with_model=False, with_files=True)
    assert not any("max_length" in note for note in short)


def test_a_step_that_fails_is_one_line_and_leaves_the_base_as_it_was(rows, tmp_path, monkeypatch):
    def fail(*_):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(LoraAdapted, "train", fail)
    words = ["model=local", save(tmp_path / "m", "Llama"), "adapter=lora", "method=fedit", *rows]
    with pytest.raises(ConfigError, match=r"^model\.path=.* fails in one step .* index out of range"):
        preflight.check(load_config(words), with_model=True)
    base = load_base(str(tmp_path / "m"))
    assert not [name for name, _ in base.model.named_parameters() if "lora" in name]


def test_one_step_of_two_rows_is_taken_and_taken_back(monkeypatch):
    seen = []
    train = LoraAdapted.train

    def spy(self, examples, rng):
        start = self.parameters()
        loss = train(self, examples, rng)
        seen.append((len(examples), any((start[k] != v).any() for k, v in self.parameters().items())))
        return loss

    monkeypatch.setattr(LoraAdapted, "train", spy)
    config = load_config(["adapter=lora", "method=fedit", "train.num_epochs=9", "train.batch_size=1"])
    before = {k: v.clone() for k, v in load_base("asset:embedded").model.state_dict().items()}
    preflight.check(config, with_model=True)
    assert seen == [(2, True)]
    after = load_base("asset:embedded").model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_fingerprint_of_another_model_is_told_before_the_start(rows, tmp_path):
    words = [save(tmp_path / "m", "Llama"), "adapter=lora", "method=fedit", *rows]
    said = r"^model\.about\.fingerprint='[0-9a-f]+' belongs to another model .* model=local"
    with pytest.raises(ConfigError, match=said):
        preflight.check(load_config(words), with_model=True)


def test_the_command_says_notes_as_warnings(rows, tmp_path, capsys):
    words = ["model=local", save(tmp_path / "m", "Llama"), "adapter=lora", "method=fedit", *rows]
    small = ["num_rounds=1", "train.max_steps=1", "split.max_test=2", "engine=local"]
    assert main(["run", *words, *small, "model.generation=checkpoint", f"run_dir={tmp_path / 'r'}"]) == 0
    assert "fedapp: warning: train.max_length=512 is more than" in capsys.readouterr().err
    assert json.loads((tmp_path / "r" / "run.json").read_text())["generation"] == "checkpoint"


@pytest.mark.parametrize(
    "words",
    [
        ["method=fed_sb"],  # trains only behind an exchange before round 1
        ["method=fed_sb", "adapter.init=svd_weight"],
        ["method=ifed_icl", "model=embedded_icl", "benchmark=embedded_text_classification"],
    ],
)
def test_a_method_that_first_exchanges_something_is_let_through(words):
    assert preflight.check(load_config(words), with_model=True) == []
