"""Following the events file of a run."""

from __future__ import annotations

import pytest

from fedapp.core.errors import one_line
from fedapp.engines.events import EventTail, FollowEvents
from fedapp.engines.job import RunFailed, check_outcome


def test_a_line_is_reported_once_and_only_when_it_is_complete(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.poll() == []  # no file yet
    path.write_text('{"event": "start"}\n{"event": "re')
    assert tail.poll() == [{"event": "start"}]
    with path.open("a") as file:
        file.write('ply"}\nnot json\n{"event": "end", "status": "completed"}\n')
    assert tail.poll() == [{"event": "reply"}, {"event": "end", "status": "completed"}]
    assert tail.poll() == []
    assert (tail.started, tail.replied, tail.end) == (True, True, {"event": "end", "status": "completed"})


def test_nothing_is_left_unreported_at_the_end(tmp_path):
    path, seen = tmp_path / "events.jsonl", []
    with FollowEvents(EventTail(path), seen.append):
        path.write_text('{"event": "start"}\n{"event": "end"}\n')
    assert [event["event"] for event in seen] == ["start", "end"]


def test_only_a_run_that_says_so_is_complete():
    check_outcome({"event": "end", "status": "completed"}, "fallback")
    with pytest.raises(RunFailed, match="fallback"):
        check_outcome(None, "fallback")
    with pytest.raises(RunFailed, match="too few replies in round 1"):
        check_outcome(
            {"event": "end", "status": "failed", "message": "too few replies\n in round 1"}, "fallback"
        )


def test_of_a_traceback_from_a_client_its_last_line_is_shown():
    from_ray = (
        "round 1: <class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::run()\x1b[39m\n"
        "  File x\nflwr.clientapp.ClientAppException: \n"
        "Exception ClientAppException occurred. Message: no data'>"
    )
    assert one_line(from_ray) == "round 1: no data"
    assert one_line("<class 'ValueError'>:<'no data'>") == "no data"
    assert one_line("a" * 700) == "a" * 598 + " …"
