"""The run folder: complete, readable, never overwritten."""

import json
import shutil
import signal

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from fedapp.cli.adapters.export import export
from fedapp.config.composed import Composed
from fedapp.models import processor
from fedapp.models.processor import Processor
from fedapp.records.adapter_file import read_adapter, write_adapter
from fedapp.records.folder import RunFolder
from fedapp.records.rows import ScoreRow, TrafficRow
from fedapp.records.summary import summarise
from fedapp.records.table import summary_notes, table_rows
from tests.federation import run_toy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    overrides = ["num_rounds=2", "split.val_share=0.2", "score.splits=[validation,test]", "evaluate_every=1"]
    return run_toy(tmp_path_factory.mktemp("runs") / "run", *overrides, "save_predictions=true")


def test_the_run_folder_holds_everything_it_should(run):
    names = {path.name for path in run.folder.iterdir()}
    files = {"config.yaml", "run.json", "events.jsonl", "metrics.jsonl", "traffic.jsonl", "summary.json"}
    assert names == files | {"adapters", "checkpoints"}
    assert set(run.adapters()) == {"client-0", "client-1", "client-2", "client-3", "shared"}


def test_run_json_says_what_auto_stood_for(run, tmp_path, monkeypatch):
    fast = Processor("p", float32=2.0, bfloat16=1.0, sdpa=2.0, eager=1.0)
    monkeypatch.setattr(processor, "this_processor", lambda: fast)
    node = {"dtype": "auto", "attn_implementation": "auto", "device": "cpu"}
    tree = yaml.safe_load((run.folder / "config.yaml").read_text())
    with RunFolder.create(Composed({**tree, "model": tree["model"] | node, "run_dir": str(tmp_path)})):
        pass
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["auto"] == {"dtype": "bfloat16", "attn_implementation": "eager"}


def test_run_json_says_what_ran(run):
    about = run.json("run")
    assert about["status"] == "completed"
    assert about["seed"] == 1
    assert about["base-fingerprint"] == "toy"
    assert about["auto"] == {}
    assert about["versions"]["flwr"] == "1.42.0"
    assert about["git-sha"] is None or len(about["git-sha"].removesuffix("-dirty")) == 40


def test_metrics_have_a_row_for_each_round_client_split_and_model(run):
    rows = [row for row in run.rows("metrics") if row["split"] == "test"]
    seen = {(r["server-round"], r["client-id"], r["model"], r["moment"]) for r in rows}
    for client in range(4):
        assert (1, client, "base", "before") in seen
        assert (1, client, "own", "before") in seen
        assert (1, client, "own", "after") in seen
        assert (1, client, "current", "after") in seen
        assert (2, client, "own", "after") in seen
        assert (2, client, "final", "after") in seen
        assert any((2, client, model, "before") in seen for model in ("aggregated", "mixed"))
    splits = {row["split"] for row in run.rows("metrics")}
    assert splits == {"train", "validation", "test"}


def test_the_weight_that_was_chosen_is_logged_for_every_client_and_round(run):
    chosen = {
        (r["server-round"], r["client-id"]): r["local-weight"]
        for r in run.rows("metrics")
        if "local-weight" in r
    }
    assert {(2, client) for client in range(4)} <= set(chosen)
    assert all(0 <= weight <= 1 for weight in chosen.values())


def test_the_final_adapter_is_the_one_that_was_scored(run):
    final = [r for r in run.rows("metrics") if r["model"] == "final" and r["split"] == "test"]
    assert len(final) == 4
    for row in final:
        folder = run.folder / "adapters" / f"client-{row['client-id']}"
        values = np.concatenate(list(load_file(folder / "adapter.safetensors").values()))
        said = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        # The toy's loss is the mean square of what lies between its values and the mean label.
        goal = np.mean([float(one["target"]) for one in said if one["split"] == "test"])
        assert row["loss"] == pytest.approx(np.mean((values - goal) ** 2), rel=1e-5)


def test_traffic_adds_up_to_the_table(run):
    sent = sum(r["payload-bytes"] for r in run.rows("traffic") if r["direction"] == "up")
    assert sent == 4 * 2 * 48
    assert run.json("summary")["total"]["sent-bytes"] == 384
    assert table_rows(run.json("summary"))[-1][-2] == "384 B"


def test_a_folder_that_holds_a_run_is_not_written_to_again(run):
    before = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    with pytest.raises(ValueError, match="already holds a run"):
        run_toy(run.folder)
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == before


def test_the_table_puts_base_first_and_final_side_by_side():
    def row(server_round, model, moment, value):
        head = {
            "server-round": server_round,
            "client-id": 0,
            "split": "test",
            "model": model,
            "moment": moment,
        }
        return ScoreRow.from_json({**head, "num-examples": 2, "loss": 9.0, "accuracy": value})

    rows = [row(1, "base", "before", 0.1), row(1, "own", "after", 0.5), row(2, "own", "after", 0.6)]
    rows += [row(2, "final", "after", 0.75)]
    traffic = [TrafficRow(1, 0, "train", "up", payload_bytes=1500, wire_bytes=1600)]
    summary = summarise(rows, {0: {"train": 3, "test": 2, "tasks": ["sums"]}}, traffic).to_json()
    assert table_rows(summary)[0] == [0, "sums", 3, 2, "10.0", "50.0", "75.0", "1.5 kB", "0 B"]
    assert "worst client 75.0" in summary_notes(summary)[0]
    (client,) = summary["clients"]
    assert client == {
        "client-id": 0,
        "tasks": ["sums"],
        "train-rows": 3,
        "validation-rows": None,
        "test-rows": 2,
        "parameters": None,
        "base-score": 0.1,
        "first-round-score": 0.5,
        "final-score": 0.75,
        "sent-bytes": 1500,
        "received-bytes": 0,
        "seconds": None,
        "cpu-seconds": None,
    }


def _tests_of(client, **scores):
    """Test rows of a client: base and own of round 1, final."""
    kinds = {"base": ("base", "before"), "own": ("own", "after"), "final": ("final", "after")}
    head = {"server-round": 1, "client-id": client, "split": "test", "num-examples": 2}
    return [
        ScoreRow.from_json({**head, "model": kinds[kind][0], "moment": kinds[kind][1], "accuracy": value})
        for kind, value in scores.items()
    ]


def _asked(client, server_round, phase="train", answered=True):
    ways = ("down", "up")[: 1 + answered]
    return [TrafficRow(server_round, client, phase, way, payload_bytes=8, wire_bytes=9) for way in ways]


def test_means_are_over_the_same_clients_and_who_was_left_out_is_said():
    rows = _tests_of(0, base=0.1, own=0.3, final=0.5) + _tests_of(1, base=0.2, own=0.4, final=0.6)
    rows += _tests_of(2, own=0.9, final=1.0)
    traffic = [*_asked(0, 1), *_asked(1, 1), *_asked(2, 1, answered=False), *_asked(2, 2)]
    traffic += [*_asked(0, 10, "evaluate", answered=False), *_asked(2, 10, answered=False)]
    summary = summarise(rows, {}, traffic).to_json()
    assert table_rows(summary)[-1][4:7] == ["15.0", "35.0", "55.0"]
    assert summary["mean"]["client-ids"] == [0, 1]
    assert summary["final"]["worst-client-id"] == 0
    _, pooled, means, left_out = summary_notes(summary)
    assert pooled.startswith("pooled over all 6 test rows together: accuracy 70.0")
    assert means.startswith("means without client 2, not scored in every column")
    assert means.endswith("mean of all 3 final scores 70.0")
    assert left_out == "left out: client 0 in round 10 (evaluation); client 2 in round 1, 10"


def test_a_column_that_nobody_has_keeps_nobody_out_of_the_means():
    rows = _tests_of(0, own=0.3, final=0.5) + _tests_of(1, own=0.4, final=0.6)
    summary = summarise(rows, {}, _asked(0, 1) + _asked(1, 1)).to_json()
    assert table_rows(summary)[-1][4:7] == ["–", "35.0", "55.0"]
    assert len(summary_notes(summary)) == 2


def test_what_ends_a_run_is_in_run_json_by_name(run, tmp_path):
    tree = yaml.safe_load((run.folder / "config.yaml").read_text())
    config = Composed({**tree, "run_dir": str(tmp_path / "a")})
    with pytest.raises(KeyboardInterrupt), RunFolder.create(config):
        raise KeyboardInterrupt(128 + signal.SIGTERM)
    about = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", "interrupted by SIGTERM")
    config = Composed({**tree, "run_dir": None, "runs_dir": None})
    with pytest.raises(ValueError, match="runs_dir=null must name a folder"):
        RunFolder.create(config)


def test_an_adapter_is_kept_whole_and_read_back(tmp_path):
    config = {"adapter": {}, "model": {}, "benchmark": {}, "seed": 1}
    arrays = {"w": np.arange(3, dtype=np.float32)}
    write_adapter(tmp_path / "a", arrays, config, "f")
    back, about = read_adapter(tmp_path / "a")
    np.testing.assert_array_equal(back["w"], arrays["w"])
    assert about["base-fingerprint"] == "f"
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_without_an_adapter_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no adapter"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter.safetensors", b"\x90\x00\x00", "adapter.safetensors is damaged"),
        ("adapter.safetensors", b"", "adapter.safetensors is damaged"),
        ("adapter.json", b"{", "adapter.json is damaged"),
        ("adapter.json", b"\xff", "adapter.json is damaged"),
        ("adapter.json", b"[]", "adapter.json is damaged: it does not say adapter"),
        ("adapter.json", b"{}", "adapter.json is damaged: it does not say adapter"),
        (
            "adapter.json",
            b'{"adapter": {}, "model": {}, "benchmark": {}, "seed": 1, "base-fingerprint": "toy"}',
            "adapter.json is damaged: it does not say how to build the benchmark",
        ),
    ],
)
def test_a_damaged_adapter_is_explained_with_the_name_of_the_file(run, tmp_path, name, content, said):
    kept = shutil.copytree(run.folder / "adapters" / "client-0", tmp_path / "kept")
    (kept / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        export(kept, tmp_path / "target")
    assert str(kept / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_is_not_exported_with_another_base(run, tmp_path):
    kept = run.folder / "adapters" / "client-0"
    export(kept, tmp_path / "ours")
    assert (
        load_file(tmp_path / "ours" / "adapter.safetensors").keys()
        == load_file(kept / "adapter.safetensors").keys()
    )
    arrays, about = read_adapter(kept)
    write_adapter(tmp_path / "other", arrays, about, "another")
    with pytest.raises(ValueError, match="belongs to the base model another, the one found here is toy"):
        export(tmp_path / "other", tmp_path / "target")
    with pytest.raises(ValueError, match="is not an empty folder"):
        export(kept, tmp_path / "ours")
    assert json.loads((kept / "adapter.json").read_text())["seed"] == 1


def test_a_kept_adapter_says_how_it_was_trained_and_what_it_scores(run):
    _, about = read_adapter(run.folder / "adapters" / "client-1")
    assert about["train"] == yaml.safe_load((run.folder / "config.yaml").read_text())["train"]
    scored = {one["split"]: one for one in about["scores"]}
    summary = next(one for one in run.json("summary")["clients"] if one["client-id"] == 1)
    assert scored["test"]["accuracy"] == summary["final-score"]
    assert scored["test"]["num-examples"] == summary["test-rows"]
    assert set(scored) == {"test", "validation"}
