"""Runs that a server's folder hands over: what the site adds, what it refuses, how they end."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from fedapp.config.build import ConfigError
from fedapp.core.status import holding, write_status
from fedapp.engines.job import RunFailed
from fedapp.records.checkpoints.resume import resumed_words
from fedapp.site import runs
from fedapp.site.control import Control, ControlFault, Run
from fedapp.site.layout import ServerSite, SiteError
from fedapp.site.runs import Submission
from tests.federation import run_toy

SEATS = [11, 22, 2**64 - 1]
TOY = ["model=toy", "adapter=toy", "benchmark=toy"]
END = {"event": "end", "status": "completed"}


@pytest.fixture
def site(tmp_path):
    made = ServerSite(tmp_path / "server", "localhost", 8443, 8444, "127.0.0.1", "own", 3)
    made.home.mkdir(parents=True)
    return made


@pytest.fixture
def answers(monkeypatch):
    """What ``flwr`` answers, by its first word; an exception is raised."""
    given, asked = {}, []

    def flwr(self, command):
        asked.append(command[1:])
        if command[1] == "run":
            given["run-config"] = Path(command[-1]).read_text()
        answer = given[command[1] if command[1] != "supernode" else command[2]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Control, "_flwr", flwr)
    given["asked"] = asked
    return given


def test_a_run_has_the_sites_parties_each_bound_to_its_node(site):
    job, config = runs.prepare(site, TOY, SEATS)
    assert config.run.num_clients == 3
    assert list(config.run.seats) == SEATS
    assert job.run_dir.parent == site.runs
    job, config = runs.prepare(site, [*TOY, "num_clients=2", f"run_dir={site.folder / 'x'}"], SEATS)
    assert list(config.run.seats) == SEATS[:2]
    assert job.run_dir == site.folder / "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["num_clients=4", "seats=[]"], "num_clients=4 exceeds the 3 parties of"),
        (["num_rounds=0"], "num_rounds=0 must be"),
        (["methd=fedavg"], "methd"),
        (["seats=[1]"], "names 1 nodes, must name one for each of num_clients=3"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_there_is_a_folder(site, words, said):
    with pytest.raises(ConfigError, match=said):
        runs.prepare(site, [*TOY, *words], SEATS)
    assert not site.runs.exists()


def test_a_run_that_the_server_refuses_leaves_a_folder_that_says_why(site, answers):
    job, _ = runs.prepare(site, TOY, SEATS)
    answers["run"] = ControlFault("flwr run failed: no")
    with pytest.raises(RunFailed, match="flwr run failed: no"):
        runs.submit(site, job)
    about = json.loads((job.run_dir / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", "flwr run failed: no")
    assert runs.submissions(site) == []


def test_a_run_goes_on_with_the_settings_that_it_had(site, answers, tmp_path):
    run = run_toy(tmp_path / "run", "method=fedavg", "num_rounds=2", "num_clients=2", num_nodes=2)
    named = f"resume={run.folder}"
    job, config = runs.prepare(site, ["num_rounds=3", named], SEATS)
    assert (config["num_rounds"], config.run.num_clients, config["adapter"]["about"]["name"]) == (3, 2, "toy")
    assert list(config.run.seats) == SEATS[:2]  # the nodes of today, of as many parties as the run had
    assert job.run_dir == run.folder
    answers["run"] = {"run-id": "9"}
    runs.submit(site, job)
    # What the server app makes of it is the same config: it puts the run's words in front of others alone.
    sent = shlex.split(tomllib.loads(answers["run-config"])["overrides"])
    assert resumed_words(sent) == sent
    assert list(runs.prepare(site, [named, "num_rounds=3", "seats=[5,6]"], SEATS)[1].run.seats) == [5, 6]
    with pytest.raises(ConfigError, match="method.* was .*fedavg"):
        runs.prepare(site, [named, "num_rounds=3", "method=local"], SEATS)
    with pytest.raises(ConfigError, match="holds no run: it has no run.json"):
        runs.prepare(site, [f"resume={tmp_path / 'nowhere'}"], SEATS)


def test_what_was_submitted_is_found_by_number_by_name_and_as_the_newest(site, answers):
    found = []
    for number in ("7", "8"):
        answers["run"] = {"run-id": number}
        found.append(runs.submit(site, runs.prepare(site, TOY, SEATS)[0]))
    assert runs.find(site, None) == runs.find(site, "8") == found[1]
    assert runs.find(site, Path(found[0].run_dir).name) == found[0]
    assert 'overrides = "num_clients=3 ' in answers["run-config"]
    of_runs = [command[-1] for command in answers["asked"] if command[0] == "run"]
    assert len(set(of_runs)) == 2  # two that are submitted at once do not read each other's
    assert list(site.state.glob("run-config*")) == []
    with pytest.raises(SiteError, match=f"has no run 9; the newest: {Path(found[0].run_dir).name}"):
        runs.find(site, "9")


def submission(site, *events, status="running"):
    run_dir = site.runs / "one"
    run_dir.mkdir(parents=True)
    write_status(run_dir, {"status": status, "reason": ""})
    (run_dir / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return Submission("7", str(run_dir), "")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"status": "completed"}, None),
        ({"status": "failed", "message": "too few replies"}, "too few replies"),
    ],
)
def test_waiting_ends_with_the_servers_last_word(site, end, said):
    one = submission(site, {"event": "start"}, {"event": "end", **end}, status=end["status"])
    seen = []
    if said is None:
        runs.wait(site, one, seen.append)
    else:
        with pytest.raises(RunFailed, match=said):
            runs.wait(site, one, seen.append)
    assert [event["event"] for event in seen] == ["start", "end"]


def test_a_server_app_that_died_without_a_word_is_a_failed_run_with_flowers_reason(
    site, answers, monkeypatch
):
    for name in ("STATUS_SECONDS", "LAST_WORD_SECONDS"):
        monkeypatch.setattr(runs, name, 0.01)
    answers["ls"] = {"runs": [{"run-id": "7", "status": "finished:failed", "status-details": "No heartbeat"}]}
    one = submission(site, {"event": "start"})
    with pytest.raises(RunFailed, match="No heartbeat"):
        runs.wait(site, one, lambda event: None)
    about = json.loads((Path(one.run_dir) / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", "No heartbeat")


def test_flowers_word_does_not_overrule_a_server_app_that_still_writes(site):
    one = submission(site)
    with holding(Path(one.run_dir)):
        runs.close_as_flower_says(Path(one.run_dir), Run("7", "finished:failed", "x"))
    assert json.loads((Path(one.run_dir) / "run.json").read_text())["status"] == "running"


def test_a_run_that_was_stopped_says_by_whom(site, answers):
    one = submission(site, {"event": "end", "status": "failed"}, status="failed")
    answers["stop"] = {}
    runs.stop(site, one)
    assert json.loads((Path(one.run_dir) / "run.json").read_text())["reason"] == "stopped by fedapp site stop"
    assert answers["asked"] == [["stop", "7", "site"]]


def test_a_copy_is_made_once_and_of_a_run_that_is_over(site, tmp_path):
    one = submission(site, END)
    with (
        holding(Path(one.run_dir)),
        pytest.raises(SiteError, match="run one goes on; wait for it, or: fedapp site stop one"),
    ):
        runs.fetch(one, tmp_path / "to")
    # Its server app has gone without a word: it will never be over in its own words.
    assert (runs.fetch(one, tmp_path / "left") / "run.json").exists()
    write_status(Path(one.run_dir), {"status": "starting"})  # nobody has it yet
    with pytest.raises(SiteError, match="goes on"):
        runs.fetch(one, tmp_path / "to")
    write_status(Path(one.run_dir), {"status": "completed"})
    copy = runs.fetch(one, tmp_path / "to")
    assert sorted(path.name for path in copy.iterdir()) == ["events.jsonl", "run.json"]
    assert [path.name for path in copy.parent.iterdir()] == ["one"]
    with pytest.raises(SiteError, match="is there already"):
        runs.fetch(one, tmp_path / "to")


def registered(site, answers, number):
    answers["register"] = {"node-id": number}
    control = Control(site)
    control.begin()
    site.database.touch()
    return control.register_parties()


def test_keys_are_registered_once_and_anew_where_they_have_changed(site, answers):
    (site.folder / "parties").mkdir()
    for party in range(3):
        site.public_key(party).write_text(f"key {party}\n")
    assert registered(site, answers, "5") == [0, 1, 2]
    assert registered(site, answers, "6") == []
    site.public_key(1).write_text("another key\n")
    answers["unregister"] = {}
    assert registered(site, answers, "6") == [1]
    assert answers["asked"][-2] == ["supernode", "unregister", "5", "site"]
    assert Control(site).seats() == [5, 6, 5]
    site.database.unlink()  # a server that begins anew knows nobody
    assert registered(site, answers, "7") == [0, 1, 2]


def test_a_run_waits_for_a_server_that_knows_the_parties(site):
    with pytest.raises(SiteError, match="party 0 is not registered: start the server first"):
        Control(site).seats()
