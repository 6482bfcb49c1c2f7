"""Runs side by side in numbers: pairs, corrected tests, bytes to a target; the formats; what is refused."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from fedapp.cli.main import main
from fedapp.reporting.comparison.curves import EVALUATIONS, TRAINED, curve, kind_of
from fedapp.reporting.comparison.groups import read_runs
from fedapp.reporting.comparison.rows import Question, compare_runs
from tests.reporting.made_runs import made_run, named, write_lines


@pytest.fixture
def runs(tmp_path):
    """Two methods on two seeds of three clients, and a third on one of the seeds."""
    root = tmp_path / "runs"
    for seed in (1, 2):
        made_run(root / f"a{seed}", [[0.2, 0.3, 0.4], [0.5, 0.6, 0.7]], seed=seed, base=(0.1, 0.1, 0.1))
        better = [[0.5, 0.6, 0.7], [0.6, 0.7, 0.9 if seed == 1 else 0.8]]
        made_run(root / f"b{seed}", better, seed=seed, config=named(method="fedit"), num_bytes=500)
    made_run(root / "c1", [[0.4, 0.4, 0.4], [0.7, 0.7, 0.7]], seed=1, config=named(method="local"))
    return root


def row_of(rows, label):
    (row,) = [row for row in rows if row["configuration"] == label]
    return row


def test_means_and_spreads_are_over_seeds(runs):
    rows = compare_runs([runs], pytest.fail).rows()
    assert [row["configuration"] for row in rows] == ["method=fedit", "method=fedreft", "method=local"]
    row = row_of(rows, "method=fedit")
    assert row["mean"] == pytest.approx((2.2 / 3 + 2.1 / 3) / 2)
    assert row["mean-std"] == pytest.approx(abs(2.2 / 3 - 2.1 / 3) / 2**0.5)
    assert (row["worst-client"], row["worst-client-std"]) == (0.6, 0.0)
    assert (row["seeds"], row["runs"], row["method"]) == ([1, 2], 2, "fedit")
    assert row["sent-bytes"] == 2 * 3 * 500
    assert row_of(rows, "method=local")["mean-std"] is None


def test_differences_are_over_pairs_of_seed_and_client(runs):
    rows = compare_runs([runs], pytest.fail).rows()
    reft, local = row_of(rows, "method=fedreft"), row_of(rows, "method=local")
    assert {row["against"] for row in rows} == {"method=fedit"}  # the highest mean
    assert row_of(rows, "method=fedit")["difference"] is None
    assert reft["pairs"] == 6
    assert reft["difference"] == pytest.approx(-(5 * 0.1 + 0.2) / 6)
    # All six pairs have one sign: 2 of 2^6 sign flips are as far from 0.
    assert reft["p"] == pytest.approx(2 / 64)
    assert -0.2 <= reft["difference-low"] < reft["difference"] < reft["difference-high"] <= -0.0999
    assert local["pairs"] == 3  # of the seed that both have
    assert local["difference"] == pytest.approx((0.1 + 0 - 0.2) / 3)
    # Holm: the smallest p of two times 2, the larger one as it is.
    assert reft["p-corrected"] == pytest.approx(2 * reft["p"])
    assert local["p-corrected"] == pytest.approx(local["p"])


def test_the_reference_can_be_named_by_a_word_of_its_label(runs):
    row = row_of(compare_runs([runs], pytest.fail, Question(against="method=local")).rows(), "method=fedit")
    assert (row["against"], row["pairs"]) == ("method=local", 3)
    for words in ("fed", "method=fed"):
        with pytest.raises(ValueError, match=rf"against '{words}' must name one configuration; 0 fit"):
            compare_runs([runs], pytest.fail, Question(against=words))


def test_clients_with_other_rows_are_no_pairs(tmp_path):
    made_run(tmp_path / "a", [[0.5, 0.6]], config={"num_clients": 2})
    made_run(tmp_path / "b", [[0.5, 0.6, 0.7]], config={"num_clients": 3, **named(method="fedit")})
    found = compare_runs([tmp_path], pytest.fail)
    assert found.differences == {}
    assert found.rows()[0]["difference"] is None


def test_bytes_are_counted_until_the_mean_reaches_the_target(runs):
    rows = compare_runs([runs], pytest.fail, Question(target=0.6)).rows()
    assert row_of(rows, "method=fedit")["bytes-to-target"] == 3 * 2 * 500  # in round 1
    assert row_of(rows, "method=fedreft")["bytes-to-target"] == 2 * 3 * 2 * 100  # in round 2
    rows = compare_runs([runs], pytest.fail, Question(target=0.72)).rows()
    fedit = row_of(rows, "method=fedit")  # seed 1 alone comes so far
    assert (fedit["bytes-to-target"], fedit["runs-at-target"]) == (None, 1)


def test_a_score_within_bytes_is_that_of_the_last_round_that_ends_within_them(runs):
    rows = compare_runs([runs], pytest.fail, Question(max_bytes=1199)).rows()
    assert row_of(rows, "method=fedreft")["score-within-bytes"] == pytest.approx(0.3)
    assert row_of(rows, "method=fedit")["score-within-bytes"] is None
    rows = compare_runs([runs], pytest.fail, Question(max_bytes=1200)).rows()
    assert row_of(rows, "method=fedreft")["score-within-bytes"] == pytest.approx(0.6)


def test_a_curve_starts_at_the_base_and_falls_back_on_local_training(tmp_path):
    folder = made_run(tmp_path / "a", [[0.5, 0.7]], base=(0.1, 0.3))
    (run,) = read_runs([folder], pytest.fail)
    assert kind_of([run]) == EVALUATIONS  # there is nothing else
    assert [(p.server_round, p.payload_bytes, p.mean) for p in curve(run, EVALUATIONS)] == [
        (0, 0, pytest.approx(0.2)),
        (1, 400, pytest.approx(0.6)),
    ]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = [row for row in rows if row["model"] == "final"]
    rows += [{**row, "model": "own", "accuracy": 0.4} for row in final]
    rows += [{**row, "model": "own", "accuracy": 0.45, "server-round": 2} for row in final]
    moved = [{**row, "server-round": 2} if row["model"] == "final" else row for row in rows]
    write_lines(folder / "metrics.jsonl", moved)
    (run,) = read_runs([folder], pytest.fail)
    assert kind_of([run]) == TRAINED
    means = [(point.server_round, pytest.approx(point.mean)) for point in curve(run, TRAINED)]
    assert means == [(0, 0.2), (1, 0.4), (2, 0.6)]  # the final models at the end


def test_csv_and_json_hold_numbers(runs, capsys):
    assert main(["compare", str(runs), "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert float(row_of(rows, "method=fedreft")["mean"]) == pytest.approx(0.6)
    assert row_of(rows, "method=fedit")["seeds"] == "1 2"
    assert main(["compare", str(runs), "--format", "json", "--target", "0.6", "--within", "1.2 kB"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert row_of(told["rows"], "method=fedreft")["bytes-to-target"] == 1200
    assert row_of(told["rows"], "method=fedreft")["score-within-bytes"] == pytest.approx(0.6)
    assert told["metric"] == "accuracy"
    assert any("Holm" in note for note in told["notes"])


def test_markdown_and_latex_are_tables_of_their_languages(tmp_path, capsys):
    made_run(tmp_path / "a", [[0.5, 0.6]], config={"num_clients": 4})
    made_run(tmp_path / "b", [[0.5, 0.7]], config={"num_clients": 5})
    assert main(["compare", str(tmp_path), "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| configuration | pooled | mean |")
    assert lines[1].startswith("| :-- | --: | --: |")
    assert lines[2].startswith("| method=fedreft num_clients=4 |")
    assert {line.count("|") for line in lines[:4]} == {lines[0].count("|")}
    assert main(["compare", str(tmp_path), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert r"method=fedreft num\_clients=4 & " in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3
    assert len({line.count(" & ") for line in body}) == 1
    assert text.count(r"\begin{tabular}{lrr") == text.count(r"\end{tabular}") == 1


def test_a_difference_has_a_minus_in_latex_which_a_hyphen_is_not(runs, capsys):
    assert main(["compare", str(runs), "--format", "latex"]) == 0
    body = [line for line in capsys.readouterr().out.splitlines() if line.endswith(r"\\")]
    assert any(re.search(r"& \$-\$\d+\.\d \[\$-\$\d", line) for line in body)
    assert not any(re.search(r"[ \[]-\d", line) for line in body)


def test_a_table_at_80_columns_keeps_the_scores_beside_the_configuration(runs, monkeypatch):
    from fedapp.cli.runs.compare import compare
    from tests.records.test_table import Terminal

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    compare([runs], stream, pytest.fail)
    lines = stream.lines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["configuration", "pooled", "mean", "worst", "client"]
    below = " ".join(" ".join(lines).split())
    assert "difference: -11.7 [" in below
    assert "p 0.062" in below
    assert "sent: 600 B" in below


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "cvs"], "--format cvs is none; did you mean csv?"),
        (
            ["--within", "lots"],
            "--within lots is no size; it must be a number of bytes, such as 500kB",
        ),
        (["--target", "70"], "target=70.0 must be"),
        (["--benchmark", "trec"], "--benchmark trec: no run of it; there are runs of embedded (5 runs)"),
    ],
)
def test_what_makes_no_sense_is_one_line(runs, capsys, words, said):
    assert main(["compare", str(runs), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_runs_of_different_benchmarks_do_not_stand_in_one_table(runs, capsys):
    made_run(runs / "other", [[0.5]], config=named(benchmark="trec"))
    assert main(["compare", str(runs)]) == 2
    assert capsys.readouterr().err == (
        "fedapp: error: runs of different benchmarks do not compare: embedded (5 runs), trec (1 run); "
        "choose one with --benchmark NAME\n"
    )
    assert main(["compare", str(runs), "--benchmark", "trec"]) == 0
    assert "50.0" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    assert main(["compare", str(runs), str(tmp_path / "docs")]) == 2
    said = f"{tmp_path / 'docs'} is no run folder, and there is none below it: run.json is missing"
    assert capsys.readouterr().err == f"fedapp: error: {said}\n"


def test_a_run_that_is_named_twice_is_one_run(runs):
    rows = compare_runs([runs, runs / "a1"], pytest.fail).rows()
    assert row_of(rows, "method=fedreft")["seeds"] == [1, 2]
