"""One reader of rows: cells as they stand in the file, and refusals that tell nothing of them."""

import csv
import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from fedapp.benchmarks.reading import Columns, read_table
from fedapp.core.errors import RowError

BOTH = Columns(["prompt", "target"])
SECRET = "s3cr3t"


@pytest.fixture
def read(tmp_path):
    def write(name, content, columns=BOTH):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(path, columns, f"a/{name}")

    return write


def parquet(tmp_path, **columns):
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return read_table(path, Columns(list(columns)), "a/train.parquet")


LINES = """\
{"prompt": "a", "target": 1}
{"prompt": 2.50, "target": 1.0}
{"prompt": "c", "target": 1e3}
{"prompt": "d", "target": true}
{"prompt": "e", "target": "1.0"}
{"prompt": "f", "target": -0}
{"prompt": "g", "target": 12345678901234567890123}
"""
AS_WRITTEN = ["1", "1.0", "1e3", "true", "1.0", "-0", "12345678901234567890123"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", LINES),
        ("train.jsonl", LINES.replace("\n", "\r\n")),
        ("train.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("train.json", LINES),
        ("train.json", "\ufeff [" + ",".join(LINES.splitlines()) + "]"),
    ],
)
def test_every_json_value_is_read_as_it_is_written(read, name, content):
    table = read(name, content)
    assert table.texts("target") == AS_WRITTEN
    assert table.texts("prompt") == ["a", "2.50", "c", "d", "e", "f", "g"]


def test_an_integer_of_any_length_is_a_text(read):
    assert read("a.jsonl", '{"n": ' + "7" * 5000 + "}", Columns(["n"])).texts("n") == ["7" * 5000]


@pytest.mark.parametrize(("ending", "sign"), [("csv", ","), ("tsv", "\t")])
def test_csv_cells_are_texts_with_their_commas_quotes_and_line_ends(read, tmp_path, ending, sign):
    rows = [
        ["prompt", "target", "x"],
        ["a, b", "1.0", ""],
        ['say "x"\nnow', "nan", "7"],
        ["c" * 200_000, "", "0"],
    ]
    with (tmp_path / "made").open("w", newline="") as file:
        csv.writer(file, delimiter=sign).writerows(rows)
    table = read(f"train.{ending}", "\ufeff" + (tmp_path / "made").read_bytes().decode())
    assert table.texts("prompt") == [row[0] for row in rows[1:]]
    assert table.texts("target") == ["1.0", "nan", ""]
    assert table.numbers == [2, 3, 5]


def test_parquet_numbers_keep_their_type_and_single_precision_its_digits(tmp_path):
    table = parquet(
        tmp_path,
        prompt=pyarrow.array([0.1, 2.5], pyarrow.float32()),
        whole=[1, 2],
        half=[1.0, 0.1],
        flag=[True, False],
        money=[Decimal("1.50"), Decimal("2")],
        day=[datetime.date(2024, 2, 1)] * 2,
        kind=pyarrow.array(["x", "y"]).dictionary_encode(),
    )
    texts = {name: table.texts(name) for name in table.columns}
    assert texts == {
        "prompt": ["0.1", "2.5"],
        "whole": ["1", "2"],
        "half": ["1.0", "0.1"],
        "flag": ["true", "false"],
        "money": ["1.50", "2.00"],
        "day": ["2024-02-01"] * 2,
        "kind": ["x", "y"],
    }


def test_a_split_that_datasets_saved_is_read(tmp_path):
    rows = Dataset.from_dict({"prompt": ["a", "b"], "target": [1, 2], "unread": [None, {"x": 1}]})
    DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    table = read_table(tmp_path / "saved" / "train", BOTH, "a/train")
    assert (table.texts("prompt"), table.texts("target")) == (["a", "b"], ["1", "2"])
    (tmp_path / "saved" / "train" / "state.json").write_text("[]")
    with pytest.raises(
        RowError, match=r"^a/train is no folder saved by datasets .save_to_disk. that can be read$"
    ):
        read_table(tmp_path / "saved" / "train", BOTH, "a/train")


def test_columns_that_nobody_reads_may_hold_anything(read, tmp_path):
    odd = ["NaN", "null", "[1, {}]", '"x"', "1e999", "Infinity"]
    lines = [f'{{"prompt": "a", "target": "b", "odd": {value}}}' for value in odd]
    assert read("a.jsonl", "\n".join(lines)).texts("target") == ["b"] * 6
    assert read("a.json", f"[{','.join(lines)}]").texts("target") == ["b"] * 6


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("NaN", "NaN or infinite"),
        ("-Infinity", "NaN or infinite"),
        ("null", "missing or null"),
        (f'["{SECRET}"]', "a list"),
        (f'{{"{SECRET}": 1}}', "an object"),
    ],
)
def test_what_is_no_text_is_refused_with_file_row_column_and_type(read, value, kind):
    lines = f'{{"prompt": "a", "target": 1}}\n\n{{"prompt": "{SECRET}", "target": {value}}}'
    with pytest.raises(RowError, match=rf"^a/x.jsonl line 3: target is {kind}; it must be a text") as caught:
        read("x.jsonl", lines).texts("target")
    assert SECRET not in str(caught.value)
    with pytest.raises(RowError, match=rf"^a/x.json row 2: target is {kind}"):
        read("x.json", f"[{lines.replace('}', '},', 1)}]").texts("target")


def test_a_key_that_one_row_lacks_is_refused_there(read):
    table = read("x.jsonl", '{"prompt": "a"}\n{"prompt": "b", "target": "c"}')
    with pytest.raises(RowError, match="line 1: target is missing or null"):
        table.texts("target")
    assert table.texts("target", blank="") == ["", "c"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_parquet_number_that_is_none_is_refused(tmp_path, value):
    for kind in (pyarrow.float32(), pyarrow.float64()):
        with pytest.raises(RowError, match=r"^a/train.parquet row 2: prompt is NaN or infinite"):
            parquet(tmp_path, prompt=pyarrow.array([1.0, value], kind)).texts("prompt")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", f'{{"prompt": "{SECRET}", "target"}}', r"x.jsonl line 1 is no JSON \(column 30\)$"),
        (
            "x.jsonl",
            f'{{"{SECRET}": 1}}',
            "x.jsonl lacks the column 'prompt'; it should have prompt, target$",
        ),
        ("x.jsonl", f'"{SECRET}"', "x.jsonl line 1 must be an object with the columns as its keys$"),
        ("x.json", f'[{{"prompt": "{SECRET}"', r"x.json is no JSON \(column \d+\)$"),
        ("x.json", f'[{{"{SECRET}": 1}}, 3]', "x.json row 2 must be an object"),
        ("x.json", "[" * 100_000, "x.json is no JSON that can be read: it is nested too deep$"),
        ("x.jsonl", "\n \n", "x.jsonl has no rows$"),
        ("x.json", "[]", "x.json has no rows$"),
        ("x.jsonl", b"\xff\xfe" + SECRET.encode(), "x.jsonl is no UTF-8 text: see byte 0$"),
        ("x.csv", f"{SECRET},b\n1,2", "x.csv lacks the column 'prompt'; it should have prompt, target$"),
        ("x.csv", f"prompt,target\n{SECRET},a,b", "x.csv line 2 has 3 cells, and there are 2 columns; "),
        ("x.csv", f'prompt,target\na,b\n"{SECRET}"x,b', "x.csv line 3 is no CSV: check its double quotes$"),
        ("x.csv", f'prompt,target\n"{SECRET},b', "x.csv line 2 is no CSV"),
        ("x.csv", "prompt,target,prompt\na,b,c", "x.csv has the column 'prompt' more than once$"),
        ("x.csv", "prompt,target\n", "x.csv has no rows$"),
        ("x.parquet", SECRET, "x.parquet is no Parquet file that can be read$"),
    ],
)
def test_a_file_that_is_no_table_is_refused_and_not_quoted(read, name, content, said):
    with pytest.raises(RowError, match=f"^a/{said}") as caught:
        read(name, content)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.private


def test_the_partys_own_log_has_the_value(read):
    for content, found in ((f'{{"prompt": ["{SECRET}"]}}', SECRET), ('{"prompt": NaN}', "NaN")):
        with pytest.raises(RowError) as caught:
            read("x.jsonl", content, Columns(["prompt"])).texts("prompt")
        assert found in caught.value.private


def test_half_a_surrogate_pair_is_refused(read):
    with pytest.raises(RowError, match="line 2: prompt holds half of a surrogate pair$"):
        read("x.jsonl", '{"prompt": "\\ud83d\\ude00"}\n{"prompt": "\\ud800"}', Columns(["prompt"])).texts(
            "prompt"
        )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("true", "true or false"),
        ("1.5", "no whole number"),
        ("null", "missing or null"),
        (f'"{SECRET}"', "no whole number"),
        ("2", "the number of no label; known: 0 .no., 1 .yes."),
    ],
)
def test_a_label_is_one_of_the_numbers(read, value, found):
    rows = '{"label": 1}\n{"label": "0"}\n{"label": 1.0}\n'
    assert read("x.jsonl", rows, Columns(["label"])).labels("label", ["no", "yes"]) == [1, 0, 1]
    with pytest.raises(RowError, match=f"line 4: label is {found}") as caught:
        read("x.jsonl", rows + f'{{"label": {value}}}', Columns(["label"])).labels("label", ["no", "yes"])
    assert SECRET not in str(caught.value)
    json.dumps(caught.value.private)
