"""``fedapp.sweep``: many runs, with a table of what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedapp.api.results import Run
from fedapp.api.running import alone, listed, shown
from fedapp.cli.sweeps.sweep import SweepResult, run_sweep
from fedapp.config.overrides import quote
from fedapp.config.search import RESUME
from fedapp.engines.job import RunFailed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sweep(SweepResult):
    """What became of a sweep, with its jobs as a table and its runs.

    Attributes:
        path: Its folder.
        records: Its jobs that have begun, by number.
        total: How many there were to be.
        fault: One line on what is missing; empty if all runs are complete.
    """

    @property
    def jobs(self) -> pd.DataFrame:
        """A row for each job, by number: what tells it from the others, ``status``, ``reason``, ``path``,
        ``validation-score`` (a fraction).
        """
        import pandas as pd

        common = set.intersection(*(set(job.overrides) for job in self.records)) if self.records else set()
        rows = [
            {
                "number": job.number,
                **_settings([word for word in job.overrides if word not in common]),
                "status": job.status,
                "reason": job.reason,
                "path": job.run_dir,
                "validation-score": job.validation_score,
            }
            for job in self.records
        ]
        return pd.DataFrame(rows).set_index("number") if rows else pd.DataFrame()

    @property
    def runs(self) -> list[Run]:
        """The runs that are complete, in order."""
        return [Run(Path(job.run_dir)) for job in self.records if job.is_complete and job.run_dir]

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r}, {len(self.runs)} of {self.total} runs complete)"


class SweepFailed(RunFailed):
    """Not all runs of a sweep are complete; the text is one line.

    Attributes:
        sweep: What became of it.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep.fault, sweep.path)
        self.sweep = sweep


def sweep(overrides: Sequence[str], *, resume: bool | str | Path = False, progress: bool = True) -> Sweep:
    """Run every combination of ``KEY=A,B`` values, or what a search draws, as ``fedapp run --multirun`` does.

    Args:
        overrides: Settings; ``KEY=A,B`` sweeps, ``hydra/launcher=joblib`` runs several at once,
            ``sweep=search`` has Optuna draw the settings.
        resume: True: go on with the latest sweep of the same settings, or begin it; a folder: with the
            sweep in it.
        progress: Whether to show on standard output how it goes.

    Returns:
        The sweep, all of whose runs are complete.

    Raises:
        ConfigError: If the sweep cannot be configured.
        SweepFailed: If a run failed or was not started; the others are in its ``sweep``.
        KeyboardInterrupt: If interrupted.
    """
    words = listed(overrides)
    if resume is not False:
        words.append(f"{RESUME}={'true' if resume is True else quote(str(resume))}")
    with alone(), redirect_stdout(shown(progress)):
        done = run_sweep(words)
    found = Sweep(**vars(done))
    if found.fault:
        raise SweepFailed(found)
    return found


def _settings(words: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}
