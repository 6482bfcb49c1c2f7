"""Searches: Optuna draws settings and is told what their runs come to.

The study stands in the sweep's folder (``optuna.jsonl``), so that a search goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedapp.cli.sweeps.jobs import JobRecord
from fedapp.config.build import ConfigError
from fedapp.config.search import OBJECTIVES, Drawn, SweepSettings
from fedapp.records.results import objective
from fedapp.records.table import format_bytes, format_score

STUDY = "optuna.jsonl"


def require_optuna() -> None:
    """Refuse a search where Optuna is not installed.

    Raises:
        ConfigError: If it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(
            "a search needs Optuna: pip install 'fedapp[sweeps]', or pip install 'optuna>=5,<6'"
        ) from None


class Search:
    """A study of Optuna over a sweep's folder.

    Args:
        settings: Objectives and seed.
        drawn: What is drawn.
        fixed: Overrides that all trials have.
        folder: Of the sweep; a study that is there goes on.
        jobs: What has become of the trials so far.
    """

    def __init__(
        self,
        settings: SweepSettings,
        drawn: Sequence[Drawn],
        fixed: Sequence[str],
        folder: Path,
        jobs: Sequence[JobRecord] = (),
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.settings, self.drawn, self.fixed = settings, drawn, list(fixed)
        self._state = optuna.trial.TrialState
        self._trials: dict[int, Any] = {}
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY)))
        self.study = optuna.create_study(
            storage=storage,
            study_name="sweep",
            load_if_exists=True,
            directions=["maximize" if OBJECTIVES[name] else "minimize" for name in settings.objectives],
        )
        # A sampler that began anew from the same seed would draw the first trials again.
        seed = settings.seed + len(self.study.trials)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        self._space = {one.key: _distribution(one) for one in drawn}
        self._catch_up({tuple(job.overrides): job for job in jobs if job.is_complete})

    def ask(self, number: int) -> list[str]:
        """The overrides of the next trial, which a job of this number is to run."""
        trial = self.study.ask(self._space)
        trial.set_user_attr("job", number)
        self._trials[number] = trial.number
        return self._words(trial.params)

    def tell(self, job: JobRecord) -> None:
        """What became of a trial's job."""
        self._tell(self._trials[job.number], job)

    def _tell(self, trial: int, job: JobRecord) -> None:
        values = objectives_of(job, self.settings.objectives)
        if values is None:
            self.study.tell(trial, state=self._state.FAIL)
        else:
            self.study.tell(trial, values)

    def _words(self, params: dict[str, Any]) -> list[str]:
        return [*self.fixed, *(one.word(params[one.key]) for one in self.drawn)]

    def _catch_up(self, complete: dict[tuple[str, ...], JobRecord]) -> None:
        """Tell what was not told before the sweep was stopped; what has no result is drawn again first."""
        again: list[dict[str, Any]] = []
        known: list[dict[str, Any]] = []
        for trial in self.study.get_trials():
            if trial.state == self._state.WAITING:
                known.append(trial.system_attrs.get("fixed_params", {}))
                continue
            drawn = all(one.key in trial.params for one in self.drawn)
            job = complete.get(tuple(self._words(trial.params))) if drawn else None
            if trial.state == self._state.RUNNING:
                if job is None:
                    self.study.tell(trial.number, state=self._state.FAIL)
                else:
                    self._tell(trial.number, job)
            (known if job is not None else again).append(trial.params)
        for params in again:
            if params and params not in known:
                self.study.enqueue_trial(params)
                known.append(params)


def objectives_of(job: JobRecord, names: Sequence[str]) -> list[float] | None:
    """What a job comes to by each objective; None if it is not complete, or does not say."""
    if not job.is_complete or job.run_dir is None:
        return None
    values = []
    with suppress(ValueError):
        values = [objective(Path(job.run_dir), name) for name in names]
    known = [value for value in values if value is not None]
    return known if len(known) == len(names) else None


def best_of(jobs: Sequence[JobRecord], names: Sequence[str]) -> list[tuple[JobRecord, list[float]]]:
    """The jobs that no other is better than in every objective; the first of equals, in order of number."""
    scored = [(job, values) for job in jobs if (values := objectives_of(job, names)) is not None]
    signs = [1 if OBJECTIVES[name] else -1 for name in names]
    goods = [tuple(sign * value for sign, value in zip(signs, values, strict=True)) for _, values in scored]
    return [
        one
        for place, (one, good) in enumerate(zip(scored, goods, strict=True))
        if good not in goods[:place] and not any(_dominates(other, good) for other in goods)
    ]


def show_objectives(values: Sequence[float], names: Sequence[str]) -> str:
    """``validation-score 75.0, payload-bytes 12.3 kB``."""
    return ", ".join(f"{name} {_show(name, value)}" for name, value in zip(names, values, strict=True))


def _show(name: str, value: float) -> str:
    if name.endswith("-bytes"):
        return format_bytes(value)
    return f"{value:.1f} s" if name.endswith("-seconds") else format_score(value)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _distribution(one: Drawn) -> Any:
    from optuna import distributions

    if one.choices:
        return distributions.CategoricalDistribution(one.choices)
    if one.step is None:
        return distributions.FloatDistribution(one.low, one.high, log=one.log)
    return distributions.IntDistribution(int(one.low), int(one.high), log=one.log, step=one.step)
