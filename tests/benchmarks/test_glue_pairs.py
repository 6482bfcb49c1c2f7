"""GLUE's tasks of two sentences: their files, their prompts on a real tokenizer, and the scores of STS-B."""

import json

import pytest
import yaml
from scipy.stats import pearsonr, spearmanr

from fedapp.benchmarks.metrics import pearson, spearman
from fedapp.config.build import build
from fedapp.config.compose import load_config
from fedapp.core.errors import RowError
from fedapp.core.files import CONF

COLUMNS = {
    "mrpc": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "stsb": ("sentence1", "sentence2"),
}
# As on the hub: what 0 and 1 (and 2) mean. Source: https://huggingface.co/datasets/nyu-mll/glue
LABELS = {
    "mrpc": ["different", "equivalent"],
    "rte": ["entailment", "not_entailment"],
    "qnli": ["entailment", "not_entailment"],
    "qqp": ["different", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
}


def write(folder, task, split, labels):
    first, second = COLUMNS[task]
    (folder / task).mkdir(exist_ok=True)
    rows = [{first: f"a{i}", second: f"b{i}", "label": label, "idx": i} for i, label in enumerate(labels)]
    (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def task(name, folder):
    return build(
        load_config([f"benchmark=glue_{name}", f"benchmark.data_dir={folder}"])["benchmark"], "benchmark"
    )


@pytest.mark.parametrize("name", LABELS)
def test_a_pair_becomes_one_prompt_with_its_label(name, tmp_path):
    count = len(LABELS[name])
    write(tmp_path, name, "train", range(count))
    made = task(name, tmp_path)
    examples = [made.template(row) for row in made.load("train")]
    assert [example.prompt for example in examples] == [f"a{i} [SEP] b{i}" for i in range(count)]
    assert [example.target for example in examples] == LABELS[name]
    for label in LABELS[name]:
        assert made.extract(f" {label}.") == label
    assert made.score(LABELS[name], LABELS[name])["accuracy"] == 1.0


def test_mnli_is_tested_on_the_matched_split(tmp_path):
    write(tmp_path, "mnli", "train", [0])
    write(tmp_path, "mnli", "validation_matched", [1, 1, 1, 1])
    write(tmp_path, "mnli", "validation_mismatched", [2, 2])
    write(tmp_path, "mnli", "test_matched", [-1, -1])
    made = task("mnli", tmp_path)
    assert [len(made.load(split)) for split in ("train", "validation", "test")] == [1, 2, 2]
    assert set(made.load("test")["label"]) == {1}


@pytest.mark.parametrize(("rows", "chosen_on"), [(5000, 2500), (5002, 1000)])
def test_a_large_validation_split_gives_a_thousand_rows_to_choose_on(rows, chosen_on, tmp_path):
    write(tmp_path, "qnli", "validation", [0, 1] * (rows // 2))
    made = task("qnli", tmp_path)
    chosen, reported = made.load("validation"), made.load("test")
    assert (len(chosen), len(reported)) == (chosen_on, rows - chosen_on)
    assert not set(chosen["question"]) & set(reported["question"])


def test_stsb_rounds_scores_to_fifths_and_takes_hidden_ones_for_hidden(tmp_path):
    write(tmp_path, "stsb", "train", [0.0, 5, 3.79, 2.5, "1.25"])
    write(tmp_path, "stsb", "validation", [1.0, 2.0])
    write(tmp_path, "stsb", "test", [-1.0, -1.0])
    made = task("stsb", tmp_path)
    assert [made.template(row).target for row in made.load("train")] == ["0.0", "5.0", "3.8", "2.4", "1.2"]
    assert len(made.load("test")) == len(made.load("validation")) == 1
    assert made.extract("3.8 of 5.0") == "3.8"


@pytest.mark.parametrize("label", [5.1, "close", None])
def test_a_score_that_is_none_is_refused_by_row(label, tmp_path):
    write(tmp_path, "stsb", "train", [1.0, label])
    with pytest.raises(RowError, match=r"line 2: label is"):
        task("stsb", tmp_path).load("train")


def test_correlations_are_those_of_scipy():
    answers, targets = ["1.0", "2.2", "2.2", "5.0", "0.4"], ["0.8", "3.0", "1.0", "4.8", "1.0"]
    numbers = [[float(text) for text in texts] for texts in (answers, targets)]
    assert pearson(answers, targets) == pytest.approx(pearsonr(*numbers)[0])
    assert spearman(answers, targets) == pytest.approx(spearmanr(*numbers)[0])


def test_a_constant_answer_correlates_with_nothing_and_no_number_counts_as_nought():
    assert pearson(["2.0", "2.0"], ["1.0", "3.0"]) == spearman(["2.0", "2.0"], ["1.0", "3.0"]) == 0.0
    assert pearson(["", "1", "3"], ["0", "1", "2"]) == pearson(["0", "1", "3"], ["0", "1", "2"])


@pytest.mark.parametrize("name", COLUMNS)
def test_the_prompt_for_a_causal_model_stands_in_the_file_and_shows_both_texts(name):
    text = (CONF / "benchmark" / f"glue_{name}.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("prompt:"))
    prompt = yaml.safe_load(line.partition("for a causal model: ")[2])
    assert all(f"{{{column}}}" in prompt for column in COLUMNS[name])
