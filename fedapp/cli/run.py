"""``fedapp run``: one run, from Hydra overrides to a true exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from fedapp.cli.output import FAILED, OK, USAGE, Piped, complain, warn
from fedapp.cli.progress import make_display
from fedapp.config.build import ConfigError
from fedapp.config.effect import idle_settings
from fedapp.config.run import folder_setting
from fedapp.core.status import DIED, has_died, how_it_died
from fedapp.engines import ENGINES
from fedapp.engines.closing import ENDING, close_run
from fedapp.engines.job import RunFailed
from fedapp.planning.job import make_job
from fedapp.planning.preflight import check_config, look_ahead
from fedapp.records.checkpoints.resume import resumed_words
from fedapp.records.table import show_summary


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        code: 0 if it is complete, 1 if it failed, 2 if the configuration cannot be used.
        complaint: One line on what went wrong; empty if nothing did.
        run_dir: Its folder, where it has one.
    """

    code: int
    complaint: str = ""
    run_dir: Path | None = None


def run(overrides: Sequence[str]) -> int:
    """Run once and show it on standard output.

    Args:
        overrides: Hydra overrides, as on the command line.

    Returns:
        0 if the run is complete, 1 if it failed, 2 if the configuration cannot be used.

    Raises:
        KeyboardInterrupt: If interrupted, by SIGTERM too; the run is stopped first. Its first
            argument is the exit code that is due.
        BrokenPipeError: If the run is complete, and whoever read of it has gone.
    """
    try:
        refuse_sweeps(overrides)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    stream = sys.stdout if sys.stdout.isatty() else Piped(sys.stdout)
    outcome = run_once(overrides, stream)
    if outcome.complaint:
        complain(outcome.complaint)
    if outcome.code == OK and isinstance(stream, Piped) and stream.gone:
        raise BrokenPipeError
    return outcome.code


def refuse_sweeps(overrides: Sequence[str]) -> None:
    """Refuse what only makes sense for many runs.

    Raises:
        ConfigError: If a setting is a sweep's, or the chosen experiment sweeps settings that are not given.
    """
    from fedapp.config.search import refuse_sweep_settings
    from fedapp.config.sweep import of_experiment

    refuse_sweep_settings(overrides)
    if swept := of_experiment(overrides):
        chosen = next(word for word in reversed(overrides) if word.startswith("experiment="))
        raise ConfigError(
            f"{chosen} sweeps {' '.join(swept)}: use --multirun for all its runs, or give one value of each"
        )


def run_once(
    overrides: Sequence[str], stream: TextIO, begun: Callable[[Path], None] = lambda _: None
) -> Outcome:
    """Run once and show it on a stream; what went wrong is for the caller to say.

    Args:
        overrides: Hydra overrides.
        stream: Where progress and the table go.
        begun: Told of the run folder before any work is done in it.

    Raises:
        KeyboardInterrupt: As ``run``.
    """
    with _interruptible():
        try:
            overrides = resumed_words(overrides)
            config = check_config(overrides)
            engine = ENGINES[config["engine"]]()
            for note in look_ahead(config):
                warn(note)
            _note_death(folder_setting(config, "runs_dir"))
            job = make_job(overrides, config, warn)
            begun(job.run_dir)
        except ConfigError as error:
            return Outcome(USAGE, str(error))
        for text in idle_settings(overrides, config):
            warn(text)
        try:
            opening = f"starting with engine={config['engine']}, log: {job.log_file}"
            with make_display(stream, opening) as display:
                engine(job, display.update)
            show_summary(job.run_dir, stream)
        except RunFailed as error:
            return Outcome(FAILED, f"{error} (log: {job.log_file})", job.run_dir)
        except OSError as error:  # a run that is complete stays so
            fault = f"standard output cannot be written: {error.strerror}"
            close_run(job.run_dir, fault)
            return Outcome(FAILED, f"{fault} (run folder: {job.run_dir})", job.run_dir)
        return Outcome(OK, "", job.run_dir)


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


def _interrupting(handler: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
    """A handler of others; what it raises to end the process would pass for a fault of the client at work."""

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except (Exception, SystemExit) as error:
            raise KeyboardInterrupt(128 + number) from error

    return handle


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, SIGHUP when the terminal goes, and a scheduler's signal end the run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    # Under nohup SIGHUP is ignored, and stays so.
    ignored = {one for one in ENDING if signal.getsignal(one) is signal.SIG_IGN} - {signal.SIGTERM}
    numbers = [one for one in ENDING if one is not signal.SIGINT and one not in ignored]
    try:
        before = [(number, signal.signal(number, interrupt)) for number in numbers]
        # submitit's, by which Slurm tells that a job's time is up or that it has to make room.
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            if callable(handler := signal.getsignal(number)):
                before.append((number, signal.signal(number, _interrupting(handler))))
    except ValueError:  # Not the main thread.
        yield
        return
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
