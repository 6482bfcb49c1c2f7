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
