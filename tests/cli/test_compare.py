"""``fedapp compare``: seeds together, damaged runs named and left out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from fedapp.cli.main import main
from fedapp.records.rows import TrafficRow


def make_run(folder: Path, seed: int, final: tuple[float, ...], base: tuple[float | None, ...]) -> Path:
    """A finished run of as many clients as there are final scores."""
    folder.mkdir(parents=True)
    config = {"seed": seed, **{group: {"about": {"name": group}} for group in ("method", "benchmark")}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"status": "completed", "seconds": 2.0}))
    rows = []
    for model, moment, scores in (("base", "before", base), ("final", "after", final)):
        for client, score in enumerate(scores):
            head = {"server-round": 1, "client-id": client, "split": "test", "model": model}
            rows += [{**head, "moment": moment, "accuracy": score}] if score is not None else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clients = [{"parameters": 1024}, {"parameters": 2048}, {"parameters": None}]
    (folder / "summary.json").write_text(json.dumps({"clients": clients}))
    sent = TrafficRow(1, 0, "train", "up", payload_bytes=8, wire_bytes=9)
    (folder / "traffic.jsonl").write_text(json.dumps(sent.to_json()) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "runs" / "one", 1, (0.5, 0.7), (0.1, 0.3))
    make_run(tmp_path / "runs" / "two", 2, (0.7, 0.9), (0.1, 0.3))
    return tmp_path / "runs"


def test_seeds_of_one_configuration_are_one_row(runs, capsys):
    assert main(["compare", str(runs)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "70.0 ± 14.1" in captured.out
    assert "20.0 ± 0.0 " in captured.out
    assert "1,024–2,048" in captured.out
    assert "*" not in captured.out


def test_a_run_that_was_started_twice_is_told(runs, capsys):
    assert main(["compare", str(runs)]) == 0
    assert "NOT INDEPENDENT" not in capsys.readouterr().out
    shutil.copytree(runs / "two", runs / "again")
    assert main(["compare", str(runs)]) == 0
    assert "has more than one run of seed 2; each counts, so ± comes out" in capsys.readouterr().out


def test_a_run_without_a_summary_is_compared_by_its_rows(runs, capsys):
    for path in runs.glob("*/summary.json"):
        path.unlink()
    assert main(["compare", str(runs)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert re.search(r"70\.0 ± 14\.1 .* –  +8 B", captured.out)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{", "run.json is damaged"),
        ("run.json", "[]", "its files are not those of a finished run"),
        ("run.json", '{"status": "completed"}', "its files are not those of a finished run"),
        ("run.json", '{"status": "failed", "reason": "too few"}', "the run failed, too few"),
        ("config.yaml", "{", "config.yaml is damaged"),
        ("config.yaml", None, "config.yaml is missing"),
        ("metrics.jsonl", None, "metrics.jsonl is missing"),
        ("metrics.jsonl", '{"split": "te', "metrics.jsonl is damaged"),
        ("metrics.jsonl", "", "metrics.jsonl holds no scores on the test split"),
        (
            "traffic.jsonl",
            "7\n",
            "a row of traffic.jsonl is 7, must be an object with server-round, client-id, phase, "
            "direction, payload-bytes, wire-bytes",
        ),
        (
            "metrics.jsonl",
            '{"server-round": 1, "client-id": "0"}',
            "a row of metrics.jsonl has client-id='0', which must be a whole number",
        ),
        ("summary.json", "{", "summary.json is damaged"),
    ],
)
def test_a_damaged_run_is_named_and_hides_no_other(runs, capsys, name, content, said):
    damaged = shutil.copytree(runs / "two", runs / "damaged")
    if content is None:
        (damaged / name).unlink()
    else:
        (damaged / name).write_text(content)
    assert main(["compare", str(runs)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"fedapp: warning: {damaged} is left out: {said}\n"
    assert "70.0 ± 14.1" in captured.out


def test_metrics_that_end_in_the_middle_of_a_line_are_damaged(runs, capsys):
    path = runs / "one" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["compare", str(runs)]) == 0
    captured = capsys.readouterr()
    assert f"{runs / 'one'} is left out: metrics.jsonl is damaged" in captured.err
    assert "80.0" in captured.out


def test_a_folder_that_does_not_exist_is_named_beside_good_ones_too(runs, capsys):
    for folders in ([runs / "nope"], [runs, runs / "nope"]):
        assert main(["compare", *map(str, folders)]) == 2
        assert capsys.readouterr().err == f"fedapp: error: {runs / 'nope'} does not exist\n"


def test_a_base_column_over_fewer_clients_says_so(tmp_path, capsys):
    folder = make_run(tmp_path / "runs" / "one", 1, (0.5, 0.7), (0.1, None))
    assert main(["compare", str(folder.parent)]) == 0
    output = capsys.readouterr().out
    assert "10.0*" in output
    assert f"* without client 1 of {folder}, not scored there on the base" in output


def test_settings_that_differ_tell_runs_of_the_same_names_apart(tmp_path, capsys):
    for number, task in enumerate(("code", "topic")):
        folder = make_run(tmp_path / "runs" / task, 1, (0.5,), (0.1,))
        benchmark = {"about": {"name": "b"}, "task": task, "size": number, "split_seed": number}
        config = {"seed": 1, "method": {"about": {"name": "m"}}, "benchmark": benchmark}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["compare", str(tmp_path / "runs")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for number, task in enumerate(("code", "topic")):
        assert f"benchmark.task={task}" in output
        assert f"benchmark.size={number}" in output
    assert "split_seed" not in output


def label_run(folder: Path, seed: int, digests: str, counts, config=None) -> Path:
    """A finished run of clients with these counts of answers; the same letter is the same final model."""
    make_run(folder, seed, (0.5,) * len(counts), (0.1,) * len(counts))
    head = {"server-round": 1, "split": "test", "model": "final", "moment": "after"}
    rows = []
    for client, (own, digest) in enumerate(zip(counts, digests, strict=True)):
        total, right = sum(map(sum, own)), sum(own[n][n] for n in range(len(own)))
        about = {**head, "client-id": client, "num-examples": total, "accuracy": right / total}
        rows.append({**about, "label-counts": own, "model-digest": digest * 16})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(tree | (config or {})))
    return folder


SMALL, LARGE = [[2, 0, 0], [0, 2, 0]], [[20, 60, 0], [10, 50, 12]]


def test_pooled_mean_and_worst_stand_side_by_side_under_their_names(tmp_path, capsys):
    label_run(tmp_path / "runs" / "one", 1, "aa", (SMALL, LARGE))
    assert main(["compare", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert re.search(r"pooled +mean +worst client +pooled macro-f1", output)
    # 4 of 4 and 70 of 152 rows: 74 of 156 pooled, 73.0 as the mean of 100.0 and 46.1.
    assert re.search(r"47\.4 \[39\.\d, 55\.\d\] +73\.0 +46\.1 ", output)
    assert "pooled: over the test rows of all clients together" in output
    assert "†" not in output
    assert "‡" not in output


@pytest.mark.parametrize(("digests", "mark"), [("ab", "†"), ("a", "‡")])
def test_a_pooled_score_of_several_models_is_marked(tmp_path, capsys, digests, mark):
    folder = label_run(tmp_path / "runs" / "one", 1, digests, (SMALL, LARGE)[: len(digests)])
    if mark == "‡":
        text = (folder / "metrics.jsonl").read_text()
        (folder / "metrics.jsonl").write_text(
            text.replace('"model-digest"', '"epoch"').replace('"a' + "a" * 15 + '"', "1")
        )
    assert main(["compare", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert f"]{mark}" in output
    assert f"\n{mark} " in output


WAYS = {
    "label words": {"train": {"answers": "auto"}},
    "free text": {"train": {"answers": "text"}},
    "classification head": {"train": {"answers": "text"}, "model": {"head": "classification"}},
    "label words, template chat": {"train": {"answers": "labels", "template": "chat"}},
}


def test_runs_of_one_benchmark_that_answer_by_different_rules_are_marked(tmp_path, capsys):
    for number, config in enumerate(WAYS.values()):
        label_run(tmp_path / "runs" / str(number), 1, "aa", (SMALL, LARGE), config)
    assert main(["compare", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "answers by" in output
    assert "NOT COMPARABLE on benchmark: models answer by different rules" in output
    for rule in WAYS:
        assert output.count(rule) >= 2  # in a row, and in the note


def test_runs_that_answer_by_one_rule_are_not_marked(tmp_path, capsys):
    for seed in (1, 2):
        label_run(tmp_path / "runs" / str(seed), seed, "aa", (SMALL, LARGE), WAYS["label words"])
    assert main(["compare", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "NOT COMPARABLE" not in output
    assert "answers by" not in output


def test_a_metric_that_is_not_there_is_answered_with_those_that_are(runs, capsys):
    assert main(["compare", str(runs), "--metric", "acuracy"]) == 2
    assert "metrics.jsonl holds no acuracy on the test split; it has: accuracy" in capsys.readouterr().err
