"""How a run through Flower is judged, on a SuperLink that only pretends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fedapp.engines.flower as flower
from fedapp.engines import Job, RunFailed

RAY_LOG = "Exception: The current node timed out during startup. This could happen"
START = {"event": "start", "clients": [0], "num-rounds": 1}
REPLY = {"event": "reply", "client-id": 0}
COMPLETED = {"event": "end", "status": "completed"}


class Attempt:
    """What one submission leads to."""

    def __init__(self, status: str, details: str = "", log: str = "", events: tuple[dict, ...] = ()) -> None:
        self.outcome = (status, details)
        self.log = log
        self.events = events


class PretendedSuperLink:
    """Plays attempts instead of running something."""

    attempts: list[Attempt]

    def __init__(self, tree: object, home: Path, log: int) -> None:
        self.home = home
        self.submitted = 0

    def start(self) -> None:
        (self.home / "config.toml").write_text("")

    def submit(self, job: Job) -> None:
        assert [path.name for path in job.run_dir.iterdir()] == ["log.txt"]
        self.attempt = self.attempts.pop(0)
        with job.log_file.open("a") as log:
            log.write(self.attempt.log)
        (job.run_dir / "run.json").write_text("{}")
        lines = "".join(json.dumps(event) + "\n" for event in self.attempt.events)
        (job.run_dir / "events.jsonl").write_text(lines)

    def status(self) -> tuple[str, str]:
        return self.attempt.outcome

    def log_ended(self) -> bool:
        return True

    def is_alive(self) -> bool:
        return True

    def stop_run(self) -> None:
        return None


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


def test_the_folder_for_sockets_is_short_and_goes_away(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr(flower.tempfile, "gettempdir", lambda: str(deep))
    with flower._home() as home:
        assert home.is_dir()
        assert len(str(home)) <= flower.LONGEST_TEMP
    assert not home.exists()
