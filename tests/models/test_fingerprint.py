"""Two bases have one fingerprint if, and only if, they answer alike."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from fedapp.config.compose import load_config
from fedapp.models import base as models
from fedapp.models.base import fingerprint_of, load_base, make_base
from tests import tiny_models

SHIPPED = ("embedded", "embedded_gpt2", "embedded_icl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_models.model("Llama").save_pretrained(path)
    tiny_models.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def load(path, **options):
    models._loaded.clear()
    return load_base(str(path), device="cpu", **options)


def edit(path, name, **values):
    file = path / name
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, **values}))
    return path


DECIDE = [
    {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
    {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}},
    {"rms_norm_eps": 1e-2},
    {"hidden_act": "gelu"},
]


@pytest.mark.parametrize("values", DECIDE)
def test_the_configs_numbers_decide_logits_and_fingerprint(values, folder, copied):
    ids = torch.tensor([[4, 5, 6, 7, 8, 9]])
    before = load(folder)
    after = load(edit(copied, "config.json", **values))
    with torch.no_grad():
        assert not torch.equal(before.model(ids).logits, after.model(ids).logits)
    assert before.fingerprint != after.fingerprint


def test_another_number_of_heads_is_another_model(tmp_path):
    made = []
    for heads in (2, 4):  # the same shapes: GPT-2 keeps all heads in one matrix
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=heads, n_positions=32)
        made.append(make_base(transformers.GPT2LMHeadModel(config), tiny_models.tokenizer()).fingerprint)
    assert made[0] != made[1]


def test_what_decides_nothing_changes_nothing(folder, copied):
    same = {
        "use_cache": False,
        "architectures": ["Mine"],
        "transformers_version": "5.0",
        "_name_or_path": "x",
    }
    edit(copied, "config.json", **same, rope_parameters={"rope_theta": 10000, "rope_type": "default"})
    assert load(copied).fingerprint == load(folder).fingerprint


def retokenized(path, change):
    tokenizer = tiny_models.tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(path)
    return path


def swap(tokenizer):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab["w1"], vocab["w2"] = vocab["w2"], vocab["w1"]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
        lambda t: setattr(t, "pad_token", "<x>"),
        lambda t: setattr(t, "model_max_length", 20),
    ],
    ids=["two words", "normaliser", "padding token", "longest input"],
)
def test_another_tokenizer_is_another_fingerprint(change, folder, copied):
    assert load(retokenized(copied, change)).fingerprint != load(folder).fingerprint


def test_what_the_last_call_of_a_tokenizer_set_is_no_part_of_it(folder):
    base = load(folder)
    base.tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=1)
    assert fingerprint_of(base.model, tokenizer=base.tokenizer) == base.fingerprint


def test_one_weight_in_a_million_counts(folder, copied):
    tensors = load_file(copied / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    assert load(copied).fingerprint != load(folder).fingerprint


def test_how_a_classifier_pools_is_part_of_it(tmp_path):
    tiny_models.model("Bert", labels=2).bert.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    options = {"head": "classification", "labels": ("no", "yes")}
    assert load(tmp_path, **options).fingerprint != load(tmp_path, pooling="mean", **options).fingerprint


def answers(base):
    from fedapp.core.train_config import TrainConfig
    from fedapp.training.trainer import Trainer

    trainer = Trainer(base, TrainConfig(max_length=40, max_new_tokens=12), decayed=[])
    return trainer.generate(["w1 w2 w3", "w40 w2", "w7"])


def test_a_checkpoints_generation_settings_change_nothing_unless_asked(folder, copied):
    edit(copied, "generation_config.json", repetition_penalty=3.0, no_repeat_ngram_size=1)
    plain, same = load(folder), load(copied)
    assert answers(same) == answers(plain)
    assert same.fingerprint == plain.fingerprint
    asked = load(copied, generation="checkpoint")
    assert answers(asked) != answers(plain)
    assert asked.fingerprint != plain.fingerprint
    assert load(folder, generation="checkpoint").fingerprint != asked.fingerprint


def test_where_a_sequence_ends_counts_in_both(folder, copied):
    first = answers(load(folder))[0].split()[0]
    edit(
        copied,
        "generation_config.json",
        eos_token_id=[1, tiny_models.tokenizer().convert_tokens_to_ids(first)],
    )
    ended = load(copied)
    assert answers(ended)[0] in ("", first)
    assert ended.fingerprint != load(folder).fingerprint


def test_a_setting_of_generation_that_does_not_exist_or_has_no_effect_is_refused(folder):
    with pytest.raises(ValueError, match=r"^generation='theirs' must be one of: plain, checkpoint"):
        load(folder, generation="theirs")
    with pytest.raises(
        ValueError, match=r"^generation='checkpoint' has no effect with head='classification'"
    ):
        load(folder, generation="checkpoint", head="classification", labels=("a", "b"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_has_the_fingerprint_that_its_choice_prescribes(name):
    node = load_config([f"model={name}"])["model"]
    assert load_base(node["path"]).fingerprint == node["about"]["fingerprint"]
