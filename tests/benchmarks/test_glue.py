"""GLUE: frozen rows, the protocol for hidden test labels, and the real files where they lie."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from fedapp.benchmarks import glue
from fedapp.benchmarks.glue import Glue
from fedapp.benchmarks.reading import table_of
from fedapp.core.errors import RowError
from fedapp.core.types import Example

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "glue"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not there: {DATA}")
SST2 = {"subset": "sst2", "labels": ["negative", "positive"]}
COLA = {
    "subset": "cola",
    "labels": ["unacceptable", "acceptable"],
    "metrics": ["matthews-correlation", "accuracy"],
}


@pytest.fixture
def folder(tmp_path):
    """A folder with six training, five validation and two test rows; tests overwrite single splits."""

    def write(split, labels):
        rows = [{"sentence": f"{split} {i}", "label": label, "idx": i} for i, label in enumerate(labels)]
        (tmp_path / "sst2").mkdir(exist_ok=True)
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(tmp_path)

    write("train", [0, 1, 0, 1, 0, 1])
    write("validation", [0, 1, 1, 0, 1])
    return write


def test_a_frozen_row_becomes_this_example():
    row = {"sentence": "one long string of cliches . ", "label": 0, "idx": 0, "task": "sst2"}
    assert Glue(**SST2).template(row) == Example("one long string of cliches .", "negative", "sst2", 0)
    asked = Glue(**SST2, prompt="Review: {sentence}\nSentiment:").template(row)
    assert asked.prompt == "Review: one long string of cliches .\nSentiment:"


def test_braces_in_a_sentence_are_left_alone():
    row = {"sentence": "a {label} b", "label": 1, "idx": 0}
    assert Glue(**SST2, prompt="{sentence}!").template(row).prompt == "a {label} b!"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("acceptable", "acceptable"),
        (" Unacceptable.", "unacceptable"),
        ("it is unacceptable", "unacceptable"),
        ("inacceptable", ""),
        ("?", ""),
    ],
)
def test_the_label_is_found_as_a_whole_word(completion, answer):
    cola = Glue(**COLA)
    assert cola.extract(completion) == answer
    assert cola.extract(answer) == answer


def test_cola_reports_matthews_first_and_accuracy_second():
    # tp 1, tn 1, fn 1: (1*1 - 0) / sqrt(1*2*1*2) = 1/2
    score = Glue(**COLA).score(
        ["acceptable", "unacceptable", "unacceptable"], ["acceptable", "unacceptable", "acceptable"]
    )
    assert list(score) == ["matthews-correlation", "accuracy"]
    assert score == pytest.approx({"matthews-correlation": 0.5, "accuracy": 2 / 3})


def test_a_labelled_test_split_is_used_as_it_stands(folder):
    data_dir = folder("test", [1, 0])
    task = Glue(**SST2, data_dir=data_dir)
    assert task.load("test")["sentence"][:] == ["test 0", "test 1"]
    assert len(task.load("validation")) == 5
    assert set(task.load("train")["task"]) == {"sst2"}


@pytest.mark.parametrize("hidden", [True, False])
def test_without_test_labels_the_validation_split_is_cut_in_two(folder, hidden):
    data_dir = folder("test", [-1, -1]) if hidden else folder("train", [0, 1])
    task = Glue(**SST2, data_dir=data_dir, split_seed=3)
    chosen, reported = task.load("validation")["sentence"][:], task.load("test")["sentence"][:]
    assert (len(chosen), len(reported)) == (2, 3)
    assert sorted(chosen + reported) == [f"validation {i}" for i in range(5)]
    assert task.load("validation")["sentence"][:] == chosen
    seeds = [Glue(**SST2, data_dir=data_dir, split_seed=s) for s in range(9)]
    others = {tuple(seeded.load("test")["sentence"]) for seeded in seeds}
    assert len(others) > 1


def test_the_hub_follows_the_same_protocol(monkeypatch):
    asked = []

    def hub(path, task, split, columns, setting):
        asked.append((path, task, split))
        labels = {"train": [0, 1], "validation": [0, 1, 1, 0], "test": [-1, -1]}[split]
        rows = Dataset.from_dict({"sentence": list("abcd")[: len(labels)], "label": labels})
        return table_of(rows, columns, setting)

    monkeypatch.setattr(glue, "read_remote", hub)
    task = Glue(**SST2)
    assert len(task.load("test")) == len(task.load("validation")) == 2
    assert ("nyu-mll/glue:{task}", "sst2", "validation") in asked


def test_a_label_out_of_range_is_named_with_its_row(folder):
    data_dir = folder("train", [0, 2])
    said = r"sst2/train.jsonl line 2: label is the number of no label; known: 0 \(negative\), 1 \(positive\)$"
    with pytest.raises(RowError, match=said) as caught:
        Glue(**SST2, data_dir=data_dir).load("train")
    assert caught.value.private.endswith("it is 2")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": ["a"]}, r"labels=\['a'\] must be two"),
        ({"metrics": ["rouge"]}, "benchmark.metrics has 'rouge'"),
        ({"metrics": []}, "must name a metric"),
        ({"prompt": "Sentiment:"}, "prompt='Sentiment:' must show a column"),
        ({"prompt": "{sentence"}, "is no template"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Glue(**SST2 | settings)


@needs_data
def test_the_real_files_have_the_known_sizes():
    sst2 = Glue(**SST2, data_dir=str(DATA))
    assert [len(sst2.load(split)) for split in ("train", "validation", "test")] == [6920, 872, 1821]
    cola = Glue(**COLA, data_dir=str(DATA))
    assert [len(cola.load(split)) for split in ("train", "validation", "test")] == [8551, 263, 264]
    first = cola.template(cola.load("train")[0])
    assert first.target == "acceptable"
    assert first.prompt.startswith("Our friends won't buy this analysis")


def test_public_prompts_are_training_rows_that_nobody_trains_on(tmp_path):
    rows = [{"sentence": f"text {i % 8}", "label": i % 2, "idx": i} for i in range(12)]  # four texts twice
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole = Glue(**SST2, data_dir=str(tmp_path))
    parted = Glue(**SST2, data_dir=str(tmp_path), num_public=5, split_seed=3)
    public = [example.prompt for example in parted.public_prompts()]
    private = parted.load("train")["sentence"]
    assert whole.public_prompts() == []
    assert len(whole.load("train")) == 12
    assert len(set(public)) == len(public) == 5
    assert not set(public) & set(private)
    assert set(public) | set(private) == {f"text {i}" for i in range(8)}
    other_seed = Glue(**SST2, data_dir=str(tmp_path), num_public=5, split_seed=9)
    assert other_seed.public_prompts() == parted.public_prompts()
    with pytest.raises(ValueError, match="num_public=8 must be below 8"):
        Glue(**SST2, data_dir=str(tmp_path), num_public=8).public_prompts()
