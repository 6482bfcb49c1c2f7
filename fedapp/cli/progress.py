"""Show how a run goes: a bar on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from fedapp.core.errors import one_line, printable
from fedapp.engines.job import Event
from fedapp.records.table import show_cell

METRICS_SHOWN = 4


class Display(Protocol):
    """Shows events as they come; a context manager, so that the terminal is left in order."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def update(self, event: Event) -> None:
        """Show one event of the server."""


class RunState:
    """What the events so far say about the run; unknown events are ignored.

    Attributes:
        num_rounds: Rounds planned, 0 until the run has started.
        num_clients: Clients of the federation.
        server_round: Last round that is complete.
        answered: Clients that have answered in the round under way.
        loss: Last loss reported by a client, nats per example.
        evaluating: Whether the last reply was to an evaluation.
    """

    def __init__(self) -> None:
        self.num_rounds = 0
        self.num_clients = 0
        self.server_round = 0
        self._first = 0
        self.answered: set[int] = set()
        self.loss: float | None = None
        self.evaluating = False
        self._losses: list[float] = []
        self._replies = 0
        self._replies_per_round = 0
        self._begin = time.monotonic()

    def update(self, event: Event) -> None:
        """Take one event into account."""
        kind = event.get("event")
        if kind == "start":
            self.num_rounds = int(event["num-rounds"])
            self.num_clients = len(event["clients"])
            self.server_round = self._first = int(event.get("after-round", 0))
            self._begin = time.monotonic()
        elif kind == "reply":
            self._replies += 1
            self.answered.add(int(event["client-id"]))
            if isinstance(event.get("loss"), (int, float)):
                self.loss = float(event["loss"])
                self._losses.append(self.loss)
            self.evaluating = event.get("phase") == "evaluate"
        elif kind == "round":
            self.server_round = int(event["server-round"])
            self._replies_per_round = max(self._replies_per_round, self._replies)
            self._replies = 0
            self._losses.clear()
            self.answered.clear()

    def describe_round(self, event: Event) -> str:
        """One line on a ``round`` event, before it is taken into account."""
        name = f"round {event['server-round']}/{self.num_rounds}"
        if event.get("phase") == "evaluate":
            name += ", evaluation"
        metrics = [f"{key} {show_cell(value)}" for key, value in (event.get("metrics") or {}).items()]
        if self._losses:
            metrics.insert(0, f"loss {sum(self._losses) / len(self._losses):.4f}")
        heard = f"{len(self.answered)}/{self.num_clients} clients"  # the line is to fit 80 columns
        return printable(f"{name}: {', '.join([*metrics[:METRICS_SHOWN], heard])}")

    @property
    def done(self) -> float:
        """Rounds done, the share of the round under way included."""
        expected = self._replies_per_round or 2 * self.num_clients
        part = min(self._replies / expected, 0.99) if expected else 0.0
        return min(self.server_round + part, float(self.num_rounds))

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self._begin

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the seconds to go; None while there is nothing to judge by."""
        if not self.num_rounds or self.done <= 0:
            return None
        done = self.done - self._first
        return self.seconds * (self.num_rounds - self.done) / done if done > 0 else None


class PlainDisplay:
    """One line per round and warning.

    Args:
        stream: Where the lines go.
        opening: What to say before the run has started.
    """

    def __init__(self, stream: TextIO, opening: str) -> None:
        self.stream = stream
        self.opening = opening
        self.state = RunState()

    def __enter__(self) -> PlainDisplay:
        self._print(self.opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, event: Event) -> None:
        """Print a line if the event deserves one."""
        kind = event.get("event")
        if kind == "joining":
            self._print(describe_joining(event))
        elif kind == "start":
            self._print(describe_start(event))
        elif kind == "round":
            self._print(f"{self.state.describe_round(event)}, {self.state.seconds:.1f} s")
        elif kind == "warning":
            self._print(f"warning: {one_line(str(event.get('message')))}")
        elif kind == "stop":
            self._print(one_line(str(event.get("message"))))
        self.state.update(event)

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class BarDisplay:
    """A progress bar with rounds, clients, loss and time left; warnings scroll above it.

    Args:
        console: The terminal.
        opening: What to say before the run has started.
    """

    def __init__(self, console: Console, opening: str) -> None:
        self.console = console
        self.opening = opening
        self.state = RunState()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> BarDisplay:
        self.console.print(escape(self.opening), highlight=False, soft_wrap=True)
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None, detail="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, event: Event) -> None:
        """Move the bar; print what should stay on the screen."""
        kind = event.get("event")
        if kind == "start":
            self.console.print(escape(describe_start(event)), highlight=False)
        elif kind == "warning":
            text = escape(one_line(str(event.get("message"))))
            self.console.print(f"[yellow]warning:[/yellow] {text}", highlight=False)
        elif kind == "stop":
            self.console.print(escape(one_line(str(event.get("message")))), highlight=False)
        elif kind == "round":
            self.console.print(escape(self.state.describe_round(event)), highlight=False)
        self.state.update(event)
        if kind == "end" and self._task is not None:
            self._bar.update(self._task, description="finishing", detail="")
        elif kind == "joining" and self._task is not None:
            self._bar.update(self._task, description=describe_joining(event))
        else:
            self._move()

    def _move(self) -> None:
        state = self.state
        if self._task is None or not state.num_rounds:
            return
        detail = f"clients {len(state.answered)}/{state.num_clients}"
        if state.loss is not None:
            detail += f"  loss {state.loss:.3f}"
        if state.seconds_left is not None:
            detail += f"  {describe_seconds(state.seconds_left)} left"
        at = min(state.server_round + 1, state.num_rounds)
        self._bar.update(
            self._task,
            description="evaluating" if state.evaluating else f"round {at}/{state.num_rounds}",
            total=state.num_rounds,
            completed=state.done,
            detail=detail,
        )


def make_display(stream: TextIO, opening: str) -> Display:
    """A bar if the stream is a terminal, else plain lines.

    Args:
        stream: Where to show the run.
        opening: What to say before the run has started.
    """
    if stream.isatty():
        return BarDisplay(Console(file=stream), opening)
    return PlainDisplay(stream, opening)


def describe_joining(event: Event) -> str:
    """What a run waits for before it starts."""
    number = int(event["num-clients"])
    return f"{number} client{'s' * (number != 1)} loading data and model"


def describe_start(event: Event) -> str:
    """One line on a run that starts."""
    num_clients, num_rounds = len(event["clients"]), int(event["num-rounds"])
    goes_on = f", goes on after round {event['after-round']}" if "after-round" in event else ""
    return printable(
        f"{event.get('method')} on {event.get('benchmark')}: "
        f"{num_clients} client{'s' * (num_clients != 1)}, {num_rounds} round{'s' * (num_rounds != 1)}"
        f"{goes_on}"
    )


def describe_seconds(seconds: float) -> str:
    """A duration to read at a glance: ``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
