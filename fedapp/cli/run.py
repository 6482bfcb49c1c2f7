"""``fedapp run``: one run, from Hydra overrides to a true exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from fedapp.cli.output import FAILED, OK, USAGE, complain, warn
from fedapp.cli.progress import make_display
from fedapp.config.build import ConfigError
from fedapp.engines import ENGINES
from fedapp.engines.job import RunFailed
from fedapp.planning.job import make_job
from fedapp.planning.preflight import check_config, look_ahead
from fedapp.records.table import show_summary


def run(overrides: Sequence[str]) -> int:
    """Run once and show it on standard output.

    Args:
        overrides: Hydra overrides, as on the command line.

    Returns:
        0 if the run is complete, 1 if it failed, 2 if the configuration cannot be used.

    Raises:
        KeyboardInterrupt: If interrupted, by SIGTERM too; the run is stopped first. Its first
            argument is the exit code that is due.
    """
    with _interruptible():
        try:
            config = check_config(overrides)
            engine = ENGINES[config["engine"]]()
            for note in look_ahead(config) or ():
                warn(note)
            job = make_job(overrides, config)
        except ConfigError as error:
            complain(str(error))
            return USAGE
        try:
            opening = f"starting with engine={config['engine']}, log: {job.log_file}"
            with make_display(sys.stdout, opening) as display:
                engine(job, display.update)
        except RunFailed as error:
            complain(f"{error} (log: {job.log_file})")
            return FAILED
        show_summary(job.run_dir, sys.stdout)
        return OK


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # Not the main thread.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
