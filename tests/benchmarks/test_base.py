"""Where rows come from: what a folder or an address may hold, and what is said about what may not."""

import json

import pytest
from datasets import Dataset

from fedapp.benchmarks import sources
from fedapp.benchmarks.base import check_split
from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.sources import find_rows, read_folder, read_remote, with_columns

LABEL = Columns(["label"])
ROWS = [{"sentence": "good\u2028film", "label": 1}, {"sentence": "bad", "label": 0}]


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def as_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"


@pytest.mark.parametrize(
    ("name", "text"), [("train.jsonl", as_lines(ROWS)), ("train.json", json.dumps(ROWS))]
)
def test_json_lines_and_a_json_list_read_alike(tmp_path, name, text):
    # U+2028 is a line end for str.splitlines, but not for JSON lines.
    write(tmp_path / "sst2", name, text)
    table = read_folder(str(tmp_path), ["sst2"], "train", Columns(["sentence", "label"]))
    assert table.texts("sentence") == ["good\u2028film", "bad"]
    assert table.integers("label") == [1, 0]


def test_parquet_is_read_and_only_the_columns_asked_for_are_kept(tmp_path):
    (tmp_path / "sst2").mkdir()
    Dataset.from_list(ROWS).to_parquet(str(tmp_path / "sst2" / "train.parquet"))
    table = read_folder(str(tmp_path), ["sst2"], "train", Columns(["label"]))
    assert table.columns == {"label": [1, 0]}


def test_the_second_folder_name_is_taken_where_the_first_is_missing(tmp_path):
    write(tmp_path / "ARC-Easy", "test.jsonl", as_lines(ROWS))
    assert len(read_folder(str(tmp_path), ["arc_easy", "ARC-Easy"], "test", Columns(["label"]))) == 2


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, r"benchmark.data_dir=\S+ is not a folder; it should hold sst2/train.jsonl"),
        ({}, r"benchmark.data_dir=\S+ has no folder sst2; there should be sst2/train.jsonl"),
        (
            {"test.jsonl": as_lines(ROWS)},
            r"benchmark.data_dir=\S+ has no train rows of sst2; .*sst2/train.jsonl",
        ),
        ({"train.jsonl": as_lines(ROWS) + "{"}, r"sst2/train.jsonl line 4 is no JSON"),
        ({"train.jsonl": as_lines(ROWS) + "[1]"}, r"sst2/train.jsonl line 4 must be an object"),
        ({"train.json": "[1"}, r"sst2/train.json is no JSON \(column 3\)"),
        ({"train.jsonl": "\n"}, r"sst2/train.jsonl has no rows"),
        ({"train.jsonl": '{"sentence": "a"}'}, r"lacks the column 'label'; it should have sentence, label"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path, files, said):
    data_dir = tmp_path / "data"
    for name, text in (files or {}).items():
        write(data_dir / "sst2", name, text)
    if files == {}:
        data_dir.mkdir()
    with pytest.raises(ValueError, match=said) as caught:
        read_folder(str(data_dir), ["sst2"], "train", Columns(["sentence", "label"]))
    assert "\n" not in str(caught.value)


def test_a_file_address_is_filled_in_with_task_and_split(tmp_path, monkeypatch):
    write(tmp_path, "cached", json.dumps(ROWS))  # the cache's names have no ending
    asked = []
    monkeypatch.setattr(sources, "_download", lambda address: asked.append(address) or tmp_path / "cached")
    path = "https://here.example/{task}/{split}.json"
    table = read_remote(path, "boolq", "test", Columns(["label"]), "benchmark.path")
    assert table.integers("label") == [1, 0]
    assert asked == ["https://here.example/boolq/test.json"]
    write(tmp_path, "cached", "label\n7\n")
    table = read_remote(path.replace("json", "csv"), "boolq", "test", Columns(["label"]), "benchmark.path")
    assert table.integers("label") == [7]


def test_an_address_that_cannot_be_read_is_one_line_with_the_way_out(monkeypatch):
    def fail(address):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(sources, "_download", fail)
    said = r"benchmark.path=.*nowhere.json \(no network\); .*set benchmark.data_dir"
    with pytest.raises(ValueError, match=said) as caught:
        read_remote("https://here.example/{task}.json", "nowhere", "test", LABEL, "benchmark.path")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["file://{}", "{}", "~/rows", "./rows", "zip://a::file://{}", "https://a::{}"]
)
def test_an_address_leads_away_from_this_machine(path, tmp_path):
    with pytest.raises(ValueError, match=r"^benchmark.path=\S+ must be.*set benchmark.data_dir"):
        read_remote(path.format(tmp_path), "a", "test", LABEL, "benchmark.path")


@pytest.mark.parametrize("folder", ["../etc", "/etc", "a/../../b", ""])
def test_a_folders_name_leads_to_no_place_outside(folder, tmp_path):
    with pytest.raises(ValueError, match="must be the name of a folder in benchmark.data_dir"):
        find_rows(str(tmp_path), [folder], "train")


def test_a_split_lies_there_once(tmp_path):
    for name in ("train.jsonl", "train.csv"):
        write(tmp_path / "a", name, "")
    with pytest.raises(
        ValueError, match=r"a has its train rows more than once, in train.jsonl and train.csv"
    ):
        find_rows(str(tmp_path), ["a"], "train")


def test_columns_are_added_without_touching_the_others():
    rows = with_columns(Dataset.from_list(ROWS).select([1]), task=["sst2"])
    assert rows.to_list() == [{"sentence": "bad", "label": 0, "task": "sst2"}]


def test_an_unknown_split_is_refused():
    check_split("validation")
    with pytest.raises(ValueError, match="split='dev' does not exist; known: train, validation, test"):
        check_split("dev")
