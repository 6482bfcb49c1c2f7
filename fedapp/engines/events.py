"""Follow the events that the server appends to ``events.jsonl`` in the run folder."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedapp.engines.job import Event, OnEvent

POLL_SECONDS = 0.1


class EventTail:
    """Reads each complete line once; the file need not exist yet.

    Args:
        path: The events file.
        from_now: Pass over what it holds already.
    """

    def __init__(self, path: Path, from_now: bool = False) -> None:
        self.path = path
        self.end: Event | None = None
        self.started = False
        self.replied = False
        self._offset = path.stat().st_size if from_now and path.exists() else 0

    def poll(self) -> list[Event]:
        """Events since the last call; a line that is still being written waits for its end."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        events: list[Event] = []
        for line in complete.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._notice(event)
                events.append(event)
        return events

    def _notice(self, event: Event) -> None:
        self.started |= event.get("event") == "start"
        self.replied |= event.get("event") == "reply"
        if event.get("event") == "end":
            self.end = event


def report(tail: EventTail, on_event: OnEvent) -> None:
    """Show the events since the last time; a display that cannot be written to is no trouble of the run."""
    for event in tail.poll():
        with suppress(OSError):
            on_event(event)


class FollowEvents:
    """Context manager that reports events from a thread of its own while the body runs.

    Args:
        tail: Where the events are.
        on_event: Called in that thread with each event; on exit nothing is left unreported.
    """

    def __init__(self, tail: EventTail, on_event: OnEvent) -> None:
        self.tail = tail
        self.on_event = on_event
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)

    def __enter__(self) -> FollowEvents:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            last = self._stop.wait(POLL_SECONDS)
            report(self.tail, self.on_event)
            if last:
                return
