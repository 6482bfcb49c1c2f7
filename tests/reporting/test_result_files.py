"""Small result files: what is kept of a run, what is not, and the tables that are made of them."""

import json
import re
import shlex
import statistics

import pytest

from fedapp.cli.main import main
from fedapp.cli.runs import results as command
from fedapp.config.compose import load_config
from fedapp.core.files import ROOT
from fedapp.records.results import read_finished
from fedapp.reporting.result_file import ResultRecord, add_records, kept_overrides, read_records
from fedapp.reporting.tables import table_of, updated
from fedapp.reporting.tuning import Choice, write_choices
from tests.federation import TOY, run_toy

LABELS = "+benchmark.labels=['0','1','2','3']"
SHORT = ["num_rounds=1", "score.before=false", "score.after=false", LABELS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods, one of them with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for method, seed in (("fedavg", 1), ("fedavg", 2), ("local", 1)):
        run_toy(folder / f"{method}-{seed}", f"method={method}", f"seed={seed}", *SHORT)
    return folder


@pytest.fixture
def results(runs, tmp_path, monkeypatch):
    """A folder of result files with one of these runs."""
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    assert main(["results", "add", str(runs), "--to", str(tmp_path / "results" / "toy.jsonl")]) == 0
    return tmp_path / "results"


def test_a_result_is_small_and_names_no_place_and_no_host(results, runs):
    text = (results / "toy.jsonl").read_text()
    lines = text.splitlines()
    assert len(lines) == 3
    assert all(len(line) < 4000 for line in lines)
    assert str(runs.parent) not in text
    assert "/tmp" not in text
    assert "run_dir" not in text
    facts = json.loads(lines[0])
    assert facts["commit"] is None or len(facts["commit"]) >= 40
    assert facts["processor"]
    assert facts["versions"]["numpy"]
    assert facts["cpu-seconds"] >= 0
    assert sum(row["num-examples"] for row in facts["rows"]) == 40
    assert all(len(row["label-counts"]) == 4 for row in facts["rows"])


def test_a_result_is_read_as_it_was_written(results):
    records = read_records(results / "toy.jsonl")
    assert [ResultRecord.from_json(json.loads(json.dumps(one.to_json()))) for one in records] == records


def test_runs_that_are_added_again_take_their_own_place(results, runs, capsys):
    before = (results / "toy.jsonl").read_text()
    assert main(["results", "add", str(runs / "local-1"), "--to", str(results / "toy.jsonl")]) == 0
    assert "1 results added" in capsys.readouterr().out
    assert (results / "toy.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("benchmark.data_dir=/home/somebody/data/sst2", ["benchmark.data_dir=.../sst2"]),
        ("model.path=~/models/small.gguf", ["model.path=.../small.gguf"]),
        ("benchmark.files=['/a/b/c.csv','/a/b/d.csv']", ["benchmark.files=['.../c.csv','.../d.csv']"]),
        ("seed=3", []),
        ("run_dir=/tmp/x", []),
        ("model.path=org/name", ["model.path=org/name"]),
        ("train.learning_rate=0.003", ["train.learning_rate=0.003"]),
        ("score.after=False", ["score.after=false"]),
        ("benchmark.labels=[False,True]", ["benchmark.labels=[False,True]"]),
    ],
)
def test_of_a_place_only_the_last_name_is_kept(word, kept):
    assert list(kept_overrides([word])) == kept


def test_lines_of_older_files_are_read_with_the_same_spelling(results):
    line = json.loads((results / "toy.jsonl").read_text().splitlines()[0])
    line["overrides"] = ["score.after=False", *line["overrides"]]
    assert ResultRecord.from_json(line).overrides[0] == "score.after=false"


def cells(table, method):
    """The cells of the row of a method."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_holds_what_the_runs_came_to(results, runs):
    table = table_of("toy", results)
    found = {seed: next(read_finished(runs / f"fedavg-{seed}", pytest.fail)) for seed in (1, 2)}
    _, adapter, pooled, mean, worst, base, sent, _, cpu, step = cells(table, "fedavg")
    scores = [100 * run.pooled.score for run in found.values()]
    assert pooled.startswith(f"{statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f} [")
    means = [100 * statistics.fmean(run.scores.values()) for run in found.values()]
    assert mean.startswith(f"{statistics.fmean(means):.1f} ± {statistics.stdev(means):.1f} [")
    lowest = [100 * min(run.scores.values()) for run in found.values()]
    assert worst == f"{statistics.fmean(lowest):.1f} ± {statistics.stdev(lowest):.1f}"
    assert (adapter, sent, step) == ("toy", "192 B", "0.5*")
    assert re.fullmatch(r"\d+ s", cpu)
    assert base != "–"
    assert cells(table, "local")[2].endswith("]†")
    assert "†" not in pooled
    assert "accuracy of the final models, in %, on 40 test rows; seeds 1, 2; benchmark toy" in table
    assert "* a step size that was not tuned" in table


def test_the_commands_of_a_table_compose_the_runs_again(results, runs):
    found = [
        shlex.split(line) for line in re.findall(r"^    fedapp run (.*)$", table_of("toy", results), re.M)
    ]
    assert len(found) == 2
    seeded = next(words for words in found if "method=fedavg" in words)
    assert seeded[0] == "--multirun"
    assert seeded[-1] == "seed=1,2"
    config = load_config([*seeded[1:-1], "seed=1"])
    run = next(read_finished(runs / "fedavg-1", pytest.fail))
    unlike = {"run_dir"}
    assert {k: v for k, v in config.items() if k not in unlike} == {
        k: v for k, v in run.config.items() if k not in unlike
    }


def test_a_tuned_step_size_names_its_file(results):
    (record, *_) = read_records(results / "toy.jsonl")
    names, scores = record.names, {"0.5": [0.5], "0.3": [0.4]}
    write_choices(results / "tuning" / "small.json", [Choice((), names, scores, (1,), 0.5)], {})
    table = table_of("toy", results)
    assert cells(table, "fedavg")[-1] == "0.5 (small)"
    assert cells(table, "local")[-1] == "0.5*"
    assert "`results/tuning/small.json`" in table


@pytest.mark.parametrize(
    ("words", "cited"),
    [
        (("benchmark.num_train=9", "num_rounds=7"), True),  # sizes may differ
        (("adapter.rank=1",), False),
        (("method.strategy.weighting=uniform",), False),
        (("train.loss=labels",), False),
        (("train.num_epochs=3",), True),
    ],
)
def test_a_step_size_that_was_tuned_with_other_settings_of_a_part_is_not_cited(results, words, cited):
    (record, *_) = read_records(results / "toy.jsonl")
    choice = Choice(words, record.names, {"0.5": [0.5], "0.3": [0.4]}, (1,), 0.5)
    write_choices(results / "tuning" / "other.json", [choice], {})
    assert cells(table_of("toy", results), "fedavg")[-1] == ("0.5 (other)" if cited else "0.5*")


def test_a_table_chooses_metric_and_rows(results):
    table = table_of("toy method=local", results)
    assert "| local |" in table
    assert "| fedavg |" not in table
    for words, said in (
        ("toy metric=rouge", "has no rouge"),
        ("toy method=fedit", "holds no such result"),
        ("toy methods=local", "methods=local must be metric=NAME or GROUP=CHOICE"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=said):
            table_of(words, results)


def test_rows_that_answer_by_different_rules_are_marked(results):
    records = read_records(results / "toy.jsonl")
    facts = records[0].to_json() | {"answering": "label words"}
    add_records(results / "toy.jsonl", [ResultRecord.from_json(facts)])
    assert "**Not comparable**: models answer by different rules (free text; label words)" in table_of(
        "toy", results
    )


PAGE = "# Page\n\n<!-- table: toy -->\nold\n<!-- end -->\n\nafter\n"


def test_tables_of_a_page_are_made_again_and_a_stale_one_is_found(results, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert main(["results", "check", str(page)]) == 1
    assert "holds a table that its result file does not give" in capsys.readouterr().out
    assert page.read_text() == PAGE
    assert main(["results", "tables", str(page)]) == 0
    made = page.read_text()
    assert table_of("toy", results) in made
    assert made.startswith("# Page\n\n<!-- table: toy -->\n")
    assert made.endswith("<!-- end -->\n\nafter\n")
    assert main(["results", "check", str(page)]) == 0
    page.write_text(made.replace("| toy |", "| toys |", 1))
    assert main(["results", "check", str(page)]) == 1


@pytest.mark.parametrize(
    "text", ["<!-- table: a -->\n", "<!-- table: a -->\n<!-- table: b -->\n<!-- end -->"]
)
def test_a_mark_without_an_end_is_named(text):
    with pytest.raises(ValueError, match=r"has no <!-- end --> of its own"):
        updated(text, str)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "runs"], "add needs --to results/NAME.jsonl"),
        (["add", "--to", "x.jsonl"], "add needs folders of runs"),
        (["add", "/not/there", "--to", "x.jsonl"], "/not/there does not exist"),
        (["tables", "--to", "x.jsonl"], "tables takes no --to"),
        (["show"], "show needs the NAME"),
        (["tabels"], "unknown action 'tabels'; did you mean tables?"),
        (["check", "/not/there.md"], "/not/there.md cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["results", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["{", "[]", '{"overrides": []}', '{"rows": 7}'])
def test_a_damaged_result_file_is_named_with_its_line_and_left_as_it_is(results, runs, capsys, line):
    path = results / "toy.jsonl"
    path.write_text(path.read_text() + line + "\n")
    before = path.read_text()
    assert main(["results", "add", str(runs), "--to", str(path)]) == 2
    assert f"{path}, line 4, is no result" in capsys.readouterr().err
    assert path.read_text() == before


def test_the_tables_of_the_docs_are_what_the_result_files_give(capsys):
    assert main(["results", "check"]) == 0, capsys.readouterr().out


def test_every_result_file_of_the_project_is_read_and_names_no_place():
    for path in sorted((ROOT / "results").glob("*.jsonl")):
        assert read_records(path)
        assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text())


def test_run_json_says_by_which_overrides_a_run_was_started(runs):
    words = json.loads((runs / "local-1" / "run.json").read_text())["overrides"]
    assert {"method=local", "seed=1", *TOY} <= set(words)


def test_what_trains_nothing_has_no_step_size(results):
    path = results / "toy.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    nothing = [{**one, "parameters": [0] * len(one["parameters"])} for one in lines]
    path.write_text("".join(json.dumps(one) + "\n" for one in nothing), encoding="utf-8")
    table = table_of("toy", results)
    assert cells(table, "fedavg")[-1] == cells(table, "local")[-1] == "–"
    assert "not tuned" not in table


def test_a_result_file_that_is_not_there_is_told_with_those_that_are(capsys):
    assert main(["results", "show", "sst2_smolm2"]) == 2
    assert "there is no result file 'sst2_smolm2'; did you mean sst2_smollm2?" in capsys.readouterr().err
