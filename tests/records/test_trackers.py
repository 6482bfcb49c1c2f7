"""Trackers show the run folder's numbers, and nothing that happens to one ends a run."""

import json
import os
import struct

import pytest

from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.planning.preflight import check_config
from fedapp.records.trackers import tracker as trackers
from fedapp.records.trackers.series import series
from fedapp.records.trackers.tracker import Tracking, build_tracker
from tests.federation import TOY, run_toy

SHORT = ["num_rounds=2", "num_clients=2"]


def points(run):
    """All points that the run's files hold, as (curve, round, value)."""
    return sorted(
        (name, row["server-round"], value)
        for file in ("metrics", "traffic", "events")
        for row in run.rows(file)
        for name, value in series(file, row).items()
    )


def level_db_log(content):
    """The records of a file in LevelDB's log format, after W&B's header of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # no chunk begins so late in a block
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def of_tensorboard(folder):
    """The points in TensorBoard's event files, sorted."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return sorted(
        (name, event.step, float(make_ndarray(event.tensor_proto)))
        for name in found.Tags()["tensors"]
        for event in found.Tensors(name)
    )


def of_mlflow(store):
    """The only run in MLflow's file store, and its points, sorted."""
    import mlflow

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # of 3.17 and later, for who reads it
    client = mlflow.MlflowClient(tracking_uri=store.as_uri())
    (kept,) = client.search_runs([client.get_experiment_by_name("fedapp").experiment_id])
    names = kept.data.metrics
    found = [one for name in names for one in client.get_metric_history(kept.info.run_id, name)]
    return kept, sorted((one.key, one.step, one.value) for one in found)


def of_wandb(folder):
    """The points in the only offline run of Weights & Biases, sorted."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("offline-run-*/*.wandb")
    found = []
    for content in level_db_log(file.read_bytes()):
        record = Record.FromString(content)
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        found += [
            (name, items["server-round"], value)
            for name, value in items.items()
            if name != "server-round" and not name.startswith("_")
        ]
    return sorted(found)


def test_curves_are_called_by_what_is_measured_and_whose_it_is():
    head = {"server-round": 2, "client-id": 3}
    score = {
        "split": "test",
        "model": "final",
        "moment": "after",
        "num-examples": 8,
        "loss": 0.5,
        "accuracy": 1,
    }
    assert series("metrics", head | score) == {
        "loss/test-final-after/client-3": 0.5,
        "accuracy/test-final-after/client-3": 1.0,
    }
    message = {"phase": "train", "direction": "up", "payload-bytes": 7, "wire-bytes": 9}
    assert series("traffic", head | message) == {
        "payload-bytes/train-up/client-3": 7.0,
        "wire-bytes/train-up/client-3": 9.0,
    }
    done = {
        "event": "round",
        "time": 4.5,
        "server-round": 2,
        "phase": "train",
        "metrics": {"test-accuracy": 0.25},
    }
    assert series("events", done) == {"test-accuracy/train-mean": 0.25}
    assert series("consensus", {"server-round": 2, "agreement": 0.75, "kind": "vote"}) == {
        "agreement/consensus": 0.75
    }
    assert series("events", {"event": "warning", "time": 1.0, "message": "no"}) == {}


def test_a_tensorboard_event_file_reads_back_as_the_run_folder(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra 'trackers'")
    run = run_toy(tmp_path / "run", *SHORT, "tracker=tensorboard")
    assert run.warnings() == []
    read, wanted = of_tensorboard(run.folder / "tensorboard"), points(run)
    assert len(wanted) > 20
    assert [one[:2] for one in read] == [one[:2] for one in wanted]
    for (_, _, value), (_, _, kept) in zip(read, wanted, strict=True):
        assert value == pytest.approx(kept, rel=1e-6)  # TensorBoard keeps fp32


def test_mlflow_holds_the_run_folders_numbers(tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra 'trackers'")
    run = run_toy(tmp_path / "run", *SHORT, "tracker=mlflow")
    assert run.warnings() == []
    kept, found = of_mlflow(tmp_path / "mlruns")
    assert (kept.info.run_name, kept.info.status) == ("run", "FINISHED")
    assert kept.data.params["num_rounds"] == "2"
    assert kept.data.params["method.name"] == "fedreft"
    assert found == points(run)


def test_wandb_writes_an_offline_run_with_the_run_folders_numbers(tmp_path):
    pytest.importorskip("wandb", reason="needs the extra 'trackers'")
    run = run_toy(tmp_path / "run", *SHORT, "tracker=wandb")
    assert run.warnings() == []
    assert of_wandb(run.folder / "wandb") == points(run)


class Fails:
    """A tracker that takes some rows and then no more."""

    def __init__(self, after=0):
        self.left = after

    def begin(self, path, config):
        pass

    def log(self, server_round, values):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the disk of the\ntracker is full")

    def end(self, completed):
        raise AssertionError("a tracker that failed is asked no more")


def test_a_tracker_that_fails_is_one_warning_and_the_run_completes(tmp_path, monkeypatch):
    monkeypatch.setattr("fedapp.records.folder.build_tracker", lambda config: Fails(after=3))
    run = run_toy(tmp_path / "run", *SHORT)
    assert run.json("run")["status"] == "completed"
    said = "the run goes on without its tracker (Fails): the disk of the tracker is full"
    assert run.warnings() == [said]
    assert said in run.json("run")["warnings"]
    untracked = run_toy(tmp_path / "untracked", *SHORT)
    assert run.rows("metrics") == untracked.rows("metrics")


@pytest.mark.parametrize("choice", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_one_line_with_the_command_before_the_run_starts(choice, monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    words = [*TOY, f"tracker={choice}", f"run_dir={tmp_path / 'run'}"]
    line = f"tracker={choice} needs the package {choice}: pip install 'fedapp\\[trackers\\]'"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        check_config(words)
    with pytest.raises(ConfigError, match=f"^{line}$"):
        run_toy(tmp_path / "run", f"tracker={choice}")
    assert not (tmp_path / "run" / "config.yaml").exists(), "the run has begun"


def test_by_default_nothing_but_the_run_folder_is_written():
    assert build_tracker(load_config(TOY)) is None
    Tracking(None, pytest.fail).row("metrics", {"server-round": 1, "loss": 1.0})
