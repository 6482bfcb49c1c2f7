"""``fedapp run``: one run, from Hydra overrides to a true exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from fedapp.cli.output import FAILED, OK, USAGE, complain, warn
from fedapp.cli.progress import make_display
from fedapp.config.build import ConfigError
from fedapp.config.run import folder_setting
from fedapp.core.status import DIED, has_died, how_it_died
from fedapp.engines import ENGINES
from fedapp.engines.closing import ENDING, close_run
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
            for note in look_ahead(config):
                warn(note)
            _note_death(folder_setting(config, "runs_dir"))
            job = make_job(overrides, config)
        except ConfigError as error:
            complain(str(error))
            return USAGE
        try:
            opening = f"starting with engine={config['engine']}, log: {job.log_file}"
            with make_display(sys.stdout, opening) as display:
                engine(job, display.update)
            show_summary(job.run_dir, sys.stdout)
        except RunFailed as error:
            complain(f"{error} (log: {job.log_file})")
            return FAILED
        except OSError as error:  # a run that is complete stays so
            fault = f"standard output cannot be written: {error.strerror}"
            close_run(job.run_dir, fault)
            complain(f"{fault} (run folder: {job.run_dir})")
            return FAILED
        return OK


def _note_death(runs_dir: Path) -> None:
    """Say so if the last run below a folder was killed, and see to it that its files say so, too."""
    found: dict[float, Path] = {}
    for path in runs_dir.glob("*/run.json"):
        with contextlib.suppress(OSError):
            found[path.stat().st_mtime] = path.parent
    if found and has_died(last := found[max(found)]):
        reason = how_it_died(last)
        close_run(last, reason, status=DIED)
        warn(f"the run before this one died: {reason} ({last})")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP when the terminal goes, end the run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    # Under nohup SIGHUP is ignored, and stays so.
    ignored = {one for one in ENDING if signal.getsignal(one) is signal.SIG_IGN} - {signal.SIGTERM}
    numbers = [one for one in ENDING if one is not signal.SIGINT and one not in ignored]
    try:
        before = [(number, signal.signal(number, interrupt)) for number in numbers]
    except ValueError:  # Not the main thread.
        yield
        return
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
