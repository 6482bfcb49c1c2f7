"""Reading rows from a folder: what may lie there, and what is said about what may not."""

import json

import pytest
from datasets import Dataset

from fedapp.benchmarks.base import check_split
from fedapp.benchmarks.sources import read_folder, read_remote, with_columns

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
    assert read_folder(str(tmp_path), ["sst2"], "train", ["sentence", "label"]).to_list() == ROWS


def test_parquet_is_read_and_only_the_columns_asked_for_are_kept(tmp_path):
    (tmp_path / "sst2").mkdir()
    Dataset.from_list(ROWS).to_parquet(str(tmp_path / "sst2" / "train.parquet"))
    assert read_folder(str(tmp_path), ["sst2"], "train", ["label"]).to_list() == [{"label": 1}, {"label": 0}]


def test_the_second_folder_name_is_taken_where_the_first_is_missing(tmp_path):
    write(tmp_path / "ARC-Easy", "test.jsonl", as_lines(ROWS))
    assert len(read_folder(str(tmp_path), ["arc_easy", "ARC-Easy"], "test", ["label"])) == 2


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, r"benchmark.data_dir=\S+ is not a folder; it should hold sst2/train.jsonl"),
        ({}, r"benchmark.data_dir=\S+ has no folder sst2; there should be \S+sst2/train.jsonl"),
        (
            {"test.jsonl": as_lines(ROWS)},
            r"benchmark.data_dir=\S+ has no train rows of sst2; .*sst2/train.jsonl",
        ),
        ({"train.jsonl": as_lines(ROWS) + "{"}, r"sst2/train.jsonl line 4 is no JSON"),
        ({"train.jsonl": as_lines(ROWS) + "[1]"}, r"sst2/train.jsonl row 4 must be an object, not list"),
        ({"train.json": "[1"}, r"sst2/train.json is no JSON list"),
        ({"train.jsonl": "\n"}, r"sst2/train.jsonl has no rows"),
        ({"train.jsonl": '{"sentence": "a"}'}, r"lacks the column 'label'; it has sentence and should have"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path, files, said):
    data_dir = tmp_path / "data"
    for name, text in (files or {}).items():
        write(data_dir / "sst2", name, text)
    if files == {}:
        data_dir.mkdir()
    with pytest.raises(ValueError, match=said) as caught:
        read_folder(str(data_dir), ["sst2"], "train", ["sentence", "label"])
    assert "\n" not in str(caught.value)


def test_a_file_address_is_filled_in_with_task_and_split(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "boolq", "test.json", json.dumps(ROWS))
    path = f"file://{tmp_path}/{{task}}/{{split}}.json"
    assert read_remote(path, "boolq", "test", ["label"], "benchmark.path").to_list() == [
        {"label": 1},
        {"label": 0},
    ]


def test_an_address_that_cannot_be_read_is_one_line_with_the_way_out(tmp_path):
    path = f"file://{tmp_path}/{{task}}.json"
    with pytest.raises(ValueError, match=r"benchmark.path=.*nowhere.json .*set benchmark.data_dir") as caught:
        read_remote(path, "nowhere", "test", ["label"], "benchmark.path")
    assert "\n" not in str(caught.value)


def test_columns_are_added_without_touching_the_others():
    rows = with_columns(Dataset.from_list(ROWS).select([1]), task=["sst2"])
    assert rows.to_list() == [{"sentence": "bad", "label": 0, "task": "sst2"}]


def test_an_unknown_split_is_refused():
    check_split("validation")
    with pytest.raises(ValueError, match="split='dev' does not exist; known: train, validation, test"):
        check_split("dev")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.jsonl", b"\xff\xfe", r"train\.jsonl is no UTF-8 text: .* at byte 0"),
        ("train.parquet", b"no", r"train\.parquet is no parquet file"),
        ("train.jsonl", b'{"a": "x"}\n{"a": 5}', r"train\.jsonl row 2 has a=5, a int where row 1 has a str"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, name, content, said):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_folder(str(tmp_path), ["mine"], "train", ["a"])
