"""The two other shipped bases: one learns from its prompt, one is of another family."""

import importlib.util
import random
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedapp.adapters.demonstrations import write_demonstration
from fedapp.adapters.prompting import FewShot
from fedapp.benchmarks.embedded.classification import TASKS, EmbeddedClassification
from fedapp.benchmarks.embedded.episodes import HELD_OUT_LABELS, LABEL_WORDS, episode, pairs, vocabulary
from fedapp.benchmarks.embedded.stories import FORMATS, Embedded
from fedapp.config.compose import load_config
from fedapp.core.files import ROOT
from fedapp.models.base import load_base

ASSETS = ROOT / "fedapp" / "assets"
NAMES = ("embedded_icl", "embedded_gpt2")


@pytest.fixture(scope="module")
def bases():
    def load(folder):
        return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    return {name: load(ASSETS / name) for name in NAMES}


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def continued(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize(("name", "family"), zip(NAMES, ("llama", "gpt2"), strict=True))
def test_weights_are_small_finite_and_those_of_the_config(bases, name, family):
    model, tokenizer = bases[name]
    assert model.config.model_type == family
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert (ASSETS / name / "model.safetensors").stat().st_size < 8e6
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    prescribed = load_config([f"model={name}"])["model"]["about"]["fingerprint"]
    assert load_base(f"asset:{name}").fingerprint == prescribed


def test_gpt2_knows_the_world(bases):
    prompts = [
        "7 plus 5 is",
        "12 minus 4 is",
        "the opposite of hot is",
        "question : what helps to boil water ? answer : the",
    ]
    firsts = [re.match(r"\w+", continued(*bases["embedded_gpt2"], prompt)).group() for prompt in prompts]
    assert firsts == ["12", "8", "cold", "kettle"]


def test_icl_tokenizer_keeps_line_breaks_and_the_words_of_the_small_llama(bases):
    _, tokenizer = bases["embedded_icl"]
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(vocabulary())}
    for task in TASKS:
        benchmark = EmbeddedClassification(task, num_train=40, num_test=40)
        for row in benchmark.load("test"):
            shown = write_demonstration(FewShot().demonstration, benchmark.template(row))
            ids = tokenizer(shown)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert ids[-1] == tokenizer.convert_tokens_to_ids("\n")
            assert "".join(tokenizer.decode(ids[1:]).split()) == "".join(shown.lower().split())
        firsts = [
            tokenizer(f" {label}", add_special_tokens=False)["input_ids"][0] for label in benchmark.labels
        ]
        assert len(set(firsts)) == len(benchmark.labels)


def test_episodes_never_use_what_is_held_out():
    rng = random.Random(0)
    labels = {label for _ in range(3000) for _, label in episode(rng, 8)[0]}
    in_pairs = {
        word for _ in range(3000) for pair in pairs(rng, 8)[0] for word in (pair[1], pair[0].split()[0])
    }
    assert not (labels | in_pairs) & set(HELD_OUT_LABELS)
    assert len(labels & set(LABEL_WORDS)) > 500
    # The benchmark's label words that fit their classes may stand in pairs, and never label a text.
    own = {label for kind in TASKS.values() for label in kind.labels.values()}
    assert not labels & own
    assert in_pairs & own == own - set(HELD_OUT_LABELS)


def test_labelled_texts_help_by_ten_points_with_held_out_label_words(bases):
    """Over the whole vocabulary, and among the labels: it reads which word goes with which text."""
    measure = script("measure_few_shot")
    zero, few = (measure.accuracy(*bases["embedded_icl"], measure.arbitrary, n, 60, 0) for n in (0, 2))
    assert few[0] - zero[0] > 0.10
    assert few[1] - zero[1] > 0.10
    assert few[1] - few[2] > 0.20


def test_gpt2_has_another_tokenizer_and_knows_the_benchmarks_words(bases):
    _, tokenizer = bases["embedded_gpt2"]
    other = bases["embedded_icl"][1]
    assert len(set(tokenizer.get_vocab()) & set(other.get_vocab())) < 0.1 * len(other)
    for row in Embedded(num_train=1000).load("train"):
        for text in (row["prompt"], row["target"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids).strip() == text
    assert tokenizer("Ünï 😀")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokenizer("Ünï 😀", add_special_tokens=False)["input_ids"]).strip() == "ünï 😀"


def test_gpt2_leaves_room_to_learn(bases):
    rows = Embedded(num_test=40).load("test")
    benchmark = Embedded()
    answers = [benchmark.extract(continued(*bases["embedded_gpt2"], prompt)) for prompt in rows["prompt"]]
    assert benchmark.score(answers, rows["target"])["accuracy"] < 0.40
    assert {row["task"] for row in rows} == set(FORMATS)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("icl", []), ("gpt2", ["--width", "32", "--heads", "2"])])
def test_pre_training_is_deterministic(tmp_path, name, settings):
    for run in ("a", "b"):
        command = [sys.executable, str(ROOT / "scripts" / f"pretrain_embedded_{name}.py"), "--steps", "3"]
        command += ["--batch-size", "2", "--seed", "5", "--out", str(tmp_path / run), *settings]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("a", "b")]
    assert weights[0] == weights[1]
    shipped = {file.name for file in (ASSETS / f"embedded_{name}").iterdir()} - {"README.md"}
    assert {file.name for file in (tmp_path / "a").iterdir()} == shipped


def test_drawn_prompts_use_held_out_templates_and_show_every_class():
    measure = script("measure_few_shot")
    rng = random.Random(0)
    task = measure.arbitrary(rng)
    prompt, label = measure.prompt_of(task, 2, rng)
    assert label in task.labels.values()
    assert all(prompt.count(f" {word}\n") == 2 for word in task.labels.values())
