"""How a run through Flower is judged, on a SuperLink that only pretends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from fedapp.engines.flower import engine as flower
from fedapp.engines.job import Job, RunFailed

RAY_LOG = "Exception: The current node timed out during startup. This could happen"
START = {"event": "start", "clients": [0], "num-rounds": 1}
REPLY = {"event": "reply", "client-id": 0}
COMPLETED = {"event": "end", "status": "completed"}


class Attempt:
    """What one submission leads to."""

    def __init__(
        self,
        status: str,
        details: str = "",
        log: str = "",
        events: tuple[dict, ...] = (),
        run_status: str = "running",
        last_words: str = "",
    ) -> None:
        self.outcome = (status, details)
        self.run_status = run_status
        self.last_words = last_words  # of a server that sees its clients die when the run is stopped
        self.log = log
        self.events = events


class PretendedSuperLink:
    """Plays attempts instead of running something."""

    attempts: list[Attempt]

    def __init__(self, tree: object, run_dir: Path, home: Path, log: int) -> None:
        self.home = home
        self.attempt = Attempt("")

    def start(self) -> None:
        (self.home / "config.toml").write_text("")

    def submit(self, job: Job) -> None:
        assert sorted(path.name for path in job.run_dir.iterdir()) == ["log.txt", "run.json"]
        assert json.loads((job.run_dir / "run.json").read_text())["status"] == "starting"
        self.attempt = self.attempts.pop(0)
        self.folder = job.run_dir
        with job.log_file.open("a") as log:
            log.write(self.attempt.log)
        (job.run_dir / "run.json").write_text(json.dumps({"status": self.attempt.run_status, "seed": 7}))
        lines = "".join(json.dumps(event) + "\n" for event in self.attempt.events)
        (job.run_dir / "events.jsonl").write_text(lines)

    def status(self) -> tuple[str, str]:
        if self.attempt.outcome[0] == "interrupted":
            raise KeyboardInterrupt(128 + signal.SIGTERM)
        return self.attempt.outcome

    def log_ended(self) -> bool:
        return True

    def is_alive(self) -> bool:
        return True

    def stop_run(self) -> None:
        if self.attempt.last_words:
            facts = {"status": "failed", "seed": 7, "reason": self.attempt.last_words}
            (self.folder / "run.json").write_text(json.dumps(facts))
            with (self.folder / "events.jsonl").open("a") as events:
                events.write(json.dumps({"event": "end", "status": "failed"}) + "\n")


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Run with the attempts given; return what the display was told."""

    def run(*attempts: Attempt, **settings: float) -> list[str]:
        PretendedSuperLink.attempts = list(attempts)
        monkeypatch.setattr(flower, "SuperLink", PretendedSuperLink)
        seen: list[str] = []
        job = Job(tmp_path, tmp_path / "run", "", 1, **settings)
        job.run_dir.mkdir()
        flower.run_flower(job, lambda event: seen.append(event["event"]))
        assert PretendedSuperLink.attempts == []
        return seen

    return run


def test_a_complete_run_is_reported_event_by_event(play):
    assert play(Attempt("finished:completed", events=(START, REPLY, COMPLETED))) == ["start", "reply", "end"]


def test_completed_without_the_servers_word_is_a_failure(play):
    with pytest.raises(RunFailed, match="ended before the run was complete"):
        play(Attempt("finished:completed", events=(START, REPLY)))


def test_the_servers_word_does_not_outweigh_flowers_failure(play):
    with pytest.raises(RunFailed, match="it broke"):
        play(
            Attempt(
                "finished:failed", "Simulation failed with exception: it broke", events=(START, COMPLETED)
            )
        )


def test_a_ray_that_starts_too_slowly_gets_a_second_try_on_a_clean_folder(play):
    slow = Attempt("finished:failed", log=RAY_LOG, events=(START,))
    assert play(slow, Attempt("finished:completed", events=(START, COMPLETED))) == [
        "start",
        "warning",
        "start",
        "end",
    ]


def test_there_is_no_third_try_and_none_after_a_client_has_answered(play):
    slow = Attempt("finished:failed", "too slow", RAY_LOG)
    with pytest.raises(RunFailed, match="too slow"):
        play(slow, slow)


def test_after_a_reply_the_same_words_are_no_reason_to_try_again(play):
    with pytest.raises(RunFailed, match="lost"):
        play(Attempt("finished:failed", "lost", RAY_LOG, (START, REPLY)))


def test_a_run_that_does_not_start_is_given_up(play):
    with pytest.raises(RunFailed, match=r"did not start within 0\.2 s"):
        play(Attempt("running"), start_timeout=0.2)


def test_where_flowers_details_say_nothing_the_log_does(play):
    log = "Traceback\nray.exceptions.RaySystemError: no memory left\nRuntimeError: crashed\n"
    details = "Simulation failed with exception: An error was encountered. Ending simulation."
    with pytest.raises(RunFailed, match="RaySystemError: no memory left"):
        play(Attempt("finished:failed", details, log))


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (Attempt("interrupted", events=(START,)), "interrupted by SIGTERM"),
        (Attempt("interrupted", events=(START,), last_words="0 usable replies"), "interrupted by SIGTERM"),
        (Attempt("running"), "the run did not start within 0.2 s"),
        (Attempt("finished:failed", "it broke", events=(START,)), "it broke"),
    ],
)
def test_a_run_whose_server_fell_silent_is_marked_as_failed(play, tmp_path, attempt, reason):
    with pytest.raises((RunFailed, KeyboardInterrupt)):
        play(attempt, start_timeout=0.2)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about == {"status": "failed", "seed": 7, "reason": reason}
    end = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])
    assert (end["event"], end["status"], end["message"]) == ("end", "failed", reason)
    assert (tmp_path / "run" / "events.jsonl").read_text().count('"end"') == 1
    assert (tmp_path / "run" / "log.txt").read_text().endswith(f"fedapp: the run failed: {reason}\n")


def test_a_superlink_that_does_not_start_leaves_a_run_that_failed(play, monkeypatch, tmp_path):
    def fail(self: PretendedSuperLink) -> None:
        raise RunFailed("Flower's SuperLink does not start")

    monkeypatch.setattr(PretendedSuperLink, "start", fail)
    with pytest.raises(RunFailed):
        play()
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", "Flower's SuperLink does not start")


def test_what_the_server_said_of_the_end_stands(play, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        play(Attempt("interrupted", events=(START, COMPLETED), run_status="completed"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "completed"
    assert (tmp_path / "run" / "events.jsonl").read_text().count('"end"') == 1
