"""Two ways to run the same server and client apps: in process, and through ``flwr run``."""

from __future__ import annotations

from collections.abc import Callable

from fedapp.engines.job import Job, OnEvent

Engine = Callable[[Job, OnEvent], None]


def _flower() -> Engine:
    from fedapp.engines.flower.engine import run_flower

    return run_flower


def _local() -> Engine:
    from fedapp.engines.local import run_in_process

    return run_in_process


ENGINES: dict[str, Callable[[], Engine]] = {"flwr": _flower, "local": _local}
"""What makes each engine; imported when it is chosen, as Flower takes a second to import."""
