"""The shipped weights: they load, they fit the project's text and benchmark, and they leave room to learn."""

import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedapp.benchmarks.embedded.stories import FORMATS, Embedded
from fedapp.benchmarks.embedded.text import vocabulary
from fedapp.core.files import ROOT

ASSET = ROOT / "fedapp" / "assets" / "embedded"
SCRIPT = ROOT / "scripts" / "pretrain_embedded.py"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSET)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(ASSET).eval()


def answer(model, tokenizer, prompts):
    """Greedy answers of up to four tokens, one prompt at a time."""
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        answers.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


def test_weights_are_a_small_llama_in_fp32(model):
    assert model.config.model_type == "llama"
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert (ASSET / "model.safetensors").stat().st_size < 12e6


def test_tokenizer_has_the_vocabulary_of_the_pre_training_text(tokenizer, model):
    words = vocabulary()
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(words)}
    assert model.config.vocab_size == len(words)
    names = ("pad_token", "bos_token", "eos_token", "unk_token")
    assert [getattr(tokenizer, name) for name in names] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id


def test_tokenizer_knows_every_word_of_the_benchmark(tokenizer):
    for split in ("train", "test"):
        for row in Embedded(num_train=1000).load(split):
            ids = tokenizer(row["prompt"])["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            assert tokenizer.unk_token_id not in ids
            target = tokenizer(row["target"], add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in target
            assert len(target) <= 3
            assert Embedded().extract(tokenizer.decode(target)) == row["target"]


def test_base_model_knows_what_it_was_taught(model, tokenizer):
    """The wording of pre-training: sums, uses and opposites are right without any adapter."""
    prompts = [
        "7 plus 5 is",
        "12 minus 4 is",
        "the opposite of hot is",
        "question : what helps to boil water ? answer : the",
    ]
    firsts = [re.match(r"\w+", text.strip()).group() for text in answer(model, tokenizer, prompts)]
    assert firsts == ["12", "8", "cold", "kettle"]


def test_base_model_scores_below_forty_percent_on_the_benchmark(model, tokenizer):
    benchmark = Embedded(num_test=100)
    rows = benchmark.load("test")
    answers = [benchmark.extract(text) for text in answer(model, tokenizer, rows["prompt"])]
    assert benchmark.score(answers, rows["target"])["accuracy"] < 0.40
    assert {row["task"] for row in rows} == set(FORMATS)


@pytest.mark.long
@pytest.mark.slow
def test_pre_training_is_deterministic_and_its_folder_complete(tmp_path):
    for name in ("a", "b"):
        settings = ["--steps", "3", "--batch-size", "2", "--width", "32", "--layers", "1", "--heads", "2"]
        command = [sys.executable, str(SCRIPT), *settings, "--seed", "5", "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "step 3 loss" in done.stdout
    shipped = {file.name for file in ASSET.iterdir()} - {"README.md"}
    assert {file.name for file in (tmp_path / "a").iterdir()} == shipped
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b"]  # no staging folder is left
