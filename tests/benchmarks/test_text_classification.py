"""Text classification in words, on frozen rows; the embedded one; real data where the folder is there."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from fedapp.adapters.demonstrations import write_demonstration
from fedapp.adapters.prompting import FewShot
from fedapp.benchmarks.embedded.classification import TASKS, TEST_WORDS, EmbeddedClassification
from fedapp.benchmarks.embedded.episodes import (
    FAMILIES,
    HELD_OUT_TEMPLATES,
    LABEL_WORDS,
    TEMPLATES,
    vocabulary,
)
from fedapp.benchmarks.embedded.text import words_of
from fedapp.benchmarks.text_classification import TextClassification
from fedapp.client.dealing import Partitioning
from fedapp.client.rows import SplitConfig, client_data
from fedapp.config.build import build
from fedapp.config.compose import load_config
from fedapp.core.errors import RowError

REAL = Path(os.environ.get("FEDAPP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
ROWS = [{"text": f"t{n}", "label": 0 if n < 12 else 1 if n < 17 else 2} for n in range(20)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "demo").mkdir()
    for split in ("train", "test"):
        text = "\n".join(json.dumps(row) for row in ROWS)
        (tmp_path / "demo" / f"{split}.jsonl").write_text(text)
    return tmp_path


def demo(folder, **settings):
    settings = {"labels": ["low", "mid", "high"], "prompt": "Text: {text}\nGrade:"} | settings
    return TextClassification("demo", data_dir=str(folder), **settings)


def test_an_example_ends_before_the_label_word_and_a_demonstration_after_it(folder):
    benchmark = demo(folder)
    example = benchmark.template(benchmark.load("train")[12])
    assert (example.prompt, example.target, example.label) == ("Text: t12\nGrade:", "mid", 1)
    assert write_demonstration(FewShot().demonstration, example) == "Text: t12\nGrade: mid\n"
    assert benchmark.template_version != demo(folder, prompt="Text: {text}\nMark:").template_version


def test_braces_in_a_text_stay_as_they_are(folder):
    assert demo(folder).template({"text": " {text} {x} ", "label": 0}).prompt == "Text: {text} {x}\nGrade:"


def test_a_balanced_subset_has_equal_numbers_until_a_label_is_used_up(folder):
    labels = demo(folder, num_test=9).load("test")["label"]
    assert [labels.count(label) for label in range(3)] == [3, 3, 3]
    labels = demo(folder, num_test=16).load("test")["label"]
    assert [labels.count(label) for label in range(3)] == [8, 5, 3]
    assert len(demo(folder, num_test=500).load("test")) == 20


def test_the_subset_follows_its_own_seed(folder):
    texts = [demo(folder, num_train=6, subset_seed=seed).load("train")["text"][:] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    loose = demo(folder, num_train=10, balanced=False).load("train")["label"]
    assert loose.count(0) > 4


def test_the_answer_is_the_first_label_word_of_the_first_line(folder):
    benchmark = demo(folder)
    assert benchmark.extract(" Mid\nText: other\nGrade: low") == "mid"
    assert benchmark.extract("midway\nlow") == ""
    scores = benchmark.score([" low", "HIGH.", "nothing"], ["low", "high", "mid"])
    assert scores == pytest.approx({"accuracy": 2 / 3, "macro-f1": 2 / 3})
    assert next(iter(scores)) == "accuracy"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a", "A"]}, "labels"),
        ({"prompt": "Text:"}, "prompt"),
        ({"prompt": "Text: {text} "}, "prompt"),
        ({"num_test": -1}, "num_test"),
        ({"columns": ["text"]}, "columns"),
        ({"test_split": "dev"}, "test_split"),
        ({"metrics": ["speed"]}, "benchmark.metrics"),
    ],
)
def test_a_wrong_setting_is_named(folder, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        demo(folder, **settings)
    assert "\n" not in str(error.value)


def test_a_label_that_the_task_does_not_have_is_named(folder):
    with pytest.raises(
        ValueError, match="demo/train.jsonl line 18: label is the number of no label; known: 0 .a., 1 .b.$"
    ):
        demo(folder, labels=["a", "b"]).load("train")


def test_labels_in_another_order_than_the_datas_are_noticed_where_texts_tell(folder):
    rows = [{"text": "what does X stand for", "label": 1}, {"text": "who", "label": 0}] * 2
    (folder / "demo" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    told = {"stand for": "mid"}
    assert len(demo(folder, telling=told).load("train")) == 4
    with pytest.raises(RowError, match=r"not in the order of these data .telling in \S+$") as caught:
        demo(folder, telling=told, labels=["low", "high", "mid"]).load("train")
    assert "would be high, not mid" in caught.value.private


@pytest.mark.parametrize("name", ["subj", "emo", "agnews", "sst2", "sst5", "trec"])
def test_the_configs_build_and_say_where_rows_should_be(name, tmp_path):
    node = load_config([f"benchmark={name}", f"benchmark.data_dir={tmp_path}"])["benchmark"]
    benchmark = build(node, "benchmark")
    assert benchmark.name == name
    assert benchmark.prompt.endswith(":")
    with pytest.raises(ValueError, match=f"there should be .*{name}"):
        benchmark.load("train")


def test_a_task_that_the_hub_has_as_a_script_alone_asks_for_a_folder():
    benchmark = build(load_config(["benchmark=emo"])["benchmark"], "benchmark")
    with pytest.raises(ValueError, match=r"data_dir=null: emo is read from a folder: emo/train.jsonl"):
        benchmark.load("train")


@pytest.mark.parametrize("name", ["subj", "agnews", "sst2", "sst5", "trec"])
def test_a_conversion_on_the_hub_is_named_by_its_commit(name):
    revision = load_config([f"benchmark={name}"])["benchmark"]["revision"]
    assert revision is None or re.fullmatch("[0-9a-f]{40}", revision)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_embedded_rows_are_fixed_balanced_and_new_in_the_test_split(task):
    benchmark = EmbeddedClassification(task, num_train=240, num_test=60)
    train, test = benchmark.load("train"), benchmark.load("test")
    assert train.to_list() == EmbeddedClassification(task, num_train=240, num_test=60).load("train").to_list()
    assert not set(train["text"]) & set(test["text"])
    counts = [train["label"].count(label) for label in range(len(benchmark.labels))]
    assert counts == [240 // len(counts)] * len(counts)
    if task == "topic":
        words = [TEST_WORDS & set(words_of(text)) for text in test["text"]]
        assert all(words)
        assert not any(TEST_WORDS & set(words_of(text)) for text in train["text"])


@pytest.mark.parametrize("task", sorted(TASKS))
def test_embedded_templates_and_label_words_are_new_to_the_episodes(task):
    benchmark = EmbeddedClassification(task, num_train=120, num_test=1)
    example = benchmark.template(benchmark.load("train")[1])
    before, _, after = write_demonstration(FewShot().demonstration, example).lower().partition("\n")
    pair = (before.split(":")[0].strip(), after.split(":")[0].strip())
    assert pair in HELD_OUT_TEMPLATES
    assert pair not in TEMPLATES
    fitting = {word for family in FAMILIES.values() for labels in family.labels for word in labels}
    assert not set(benchmark.labels) & (set(LABEL_WORDS) | fitting)
    assert not set(TASKS[task].frames) & {f for family in FAMILIES.values() for f in family.frames}
    used = {word for row in benchmark.load("train") for word in words_of(benchmark.template(row).prompt)}
    assert used | set(benchmark.labels) <= set(vocabulary())


def test_ten_clients_with_skewed_labels_get_all_rows():
    benchmark = EmbeddedClassification()
    skew = Partitioning(
        "DirichletPartitioner", {"partition_by": "label", "alpha": 0.5, "min_partition_size": 10}
    )
    parts = [client_data(benchmark, skew, i, 10, seed=1, split=SplitConfig()) for i in range(10)]
    assert sum(len(part.train) + len(part.val) for part in parts) == 1200
    assert sum(len(part.test) for part in parts) == 500
    shares = [np.bincount([e.label for e in part.train], minlength=4) / len(part.train) for part in parts]
    assert max(share.max() for share in shares) > 0.5


def test_too_many_embedded_rows_are_refused(monkeypatch):
    kind = dataclasses.replace(TASKS["topic"], frames=("{word}",))
    monkeypatch.setitem(TASKS, "topic", kind)
    assert len(EmbeddedClassification(num_test=12).load("test")) == 12
    with pytest.raises(ValueError, match="benchmark.num_test=13 is too large: at most about 12 with"):
        EmbeddedClassification(num_test=13).load("test")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data in {REAL}")
def test_real_folders_have_the_layout_that_the_docs_tell():
    order = "Description,Entity,Abbreviation,Person,Location,Number"
    for name, parent, extra in (
        ("sst5", "text_classification", []),
        ("sst2", "glue", []),
        ("trec", "text_classification", [f"benchmark.labels=[{order}]"]),
    ):
        overrides = [f"benchmark={name}", f"benchmark.data_dir={REAL / parent}", *extra]
        overrides.append("benchmark.num_train=60")
        node = load_config(overrides)["benchmark"]
        benchmark = build(node, "benchmark")
        train = benchmark.load("train")
        assert len(train) == 60
        assert len(benchmark.load("test")) == 500
        answers = {benchmark.template(row).target for row in train}
        assert answers == set(benchmark.labels)
    question = next(row for row in benchmark.load("test") if row["text"].startswith("Where is "))
    assert benchmark.template(question).target == "Location"
