"""What a run or a sweep would be, without running it, and what to use in the place of Hydra's other flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from fedapp.cli.output import OK, USAGE, complain, warn

OWN_CONF = "server and clients compose the conf/ of their own installation: give settings as KEY=VALUE, "
INSTEAD = {
    ("-cn", "--config-name"): OWN_CONF + "or put a set of them into conf/experiment and name it experiment=…",
    ("-cp", "--config-path"): OWN_CONF + "or put a file into a folder of conf/",
    ("-cd", "--config-dir"): OWN_CONF + "or put a file into a folder of conf/",
    ("-i", "--info"): "fedapp run --dry-run shows config, budget and checks; fedapp list shows the choices",
    ("-p", "--package"): "fedapp run --cfg job prints the whole config",
    ("-sc", "--shell-completion"): "there is none: fedapp list shows the choices, and a misspelt setting is "
    "answered with the nearest",
    ("--hydra-help",): "of Hydra's own settings a sweep reads hydra/launcher (docs/sweeps.md)",
    ("--experimental-rerun",): "run.json in a run's folder holds the overrides that it was started by",
}
"""Flags of Hydra's command line that fedapp has no use for, and what to use instead."""


def add_preview_options(parser: argparse.ArgumentParser) -> None:
    """Let ``fedapp run`` show what it would do, and answer Hydra's other flags in a line."""
    parser.add_argument(
        "--dry-run", action="store_true", help="show config, bytes and what the checks say; run nothing"
    )
    parser.add_argument("-c", "--cfg", metavar="job", help="print the composed config (job); run nothing")
    parser.add_argument("--resolve", action="store_true", help=argparse.SUPPRESS)  # it always is
    for flags in INSTEAD:
        parser.add_argument(
            *flags, nargs="?", const="", dest="foreign", action=_Foreign, help=argparse.SUPPRESS
        )


class _Foreign(argparse.Action):
    """Notes a flag of Hydra's that fedapp does not have."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is not used: {INSTEAD[tuple(self.option_strings)]}")


def preview(overrides: Sequence[str], cfg: str | None, stream: TextIO, *, multirun: bool) -> int:
    """Show what would be run.

    Args:
        overrides: Hydra overrides.
        cfg: What of the config to print alone; None: a dry run.
        stream: Where to print.
        multirun: Whether it is a sweep.

    Returns:
        0, or 2 if it cannot be run.
    """
    from fedapp.config.build import ConfigError

    try:
        if cfg is not None:
            _print_config(overrides, cfg, stream, multirun=multirun)
            return OK
        words = _dry_sweep(overrides, stream) if multirun else _dry_run(overrides, stream)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    from fedapp.cli.budget import budget

    code = budget(words, stream)
    print("checked; nothing was run, nothing was written", file=stream, flush=True)
    return code


def _print_config(overrides: Sequence[str], cfg: str, stream: TextIO, *, multirun: bool) -> None:
    from fedapp.cli.run import refuse_sweeps
    from fedapp.config.build import ConfigError
    from fedapp.config.compose import load_config

    if cfg != "job":
        raise ConfigError(f"--cfg {cfg} is not there: --cfg job prints the config of a run")
    if multirun:
        raise ConfigError("--cfg prints the config of one run: leave out --multirun, or use --dry-run")
    refuse_sweeps(overrides)
    _dump(load_config(overrides).to_dict(), stream)


def _dry_run(overrides: Sequence[str], stream: TextIO) -> Sequence[str]:
    """Show a run's config and what the checks say of it; the overrides of which there is a budget."""
    from fedapp.cli.run import refuse_sweeps
    from fedapp.config.effect import idle_settings
    from fedapp.planning.preflight import check_config, look_ahead

    refuse_sweeps(overrides)
    config = check_config(overrides)
    notes = look_ahead(config)
    _dump(config.to_dict(), stream)
    print(file=stream, flush=True)
    for note in [*notes, *idle_settings(overrides, config)]:
        warn(note)
    return overrides


def _dry_sweep(overrides: Sequence[str], stream: TextIO) -> Sequence[str]:
    """Show a sweep's jobs and which of them are complete; the overrides of which there is a budget."""
    from fedapp.cli.sweeps.jobs import own_words, read_jobs, run_words
    from fedapp.cli.sweeps.plan import plan_sweep
    from fedapp.config.overrides import is_hydra

    plan = plan_sweep(overrides)
    done = {job.number for job in read_jobs(plan.folder) if job.is_complete} if plan.folder else set()
    shown = f"{plan.total} run{'s' * (plan.total != 1)}, {len(done)} complete"
    if plan.settings.searches:
        drawn = ", ".join(one.key for one in plan.drawn)
        by = ", ".join(plan.settings.objectives)
        print(f"{shown}; draws {drawn}; goes by {by}", file=stream)
        return [*plan.fixed, *(one.first for one in plan.drawn)]
    print(shown, file=stream)
    for number, words in plan.jobs.items():
        print(f"[{number}] {own_words(words, plan.common)}{', complete' * (number in done)}", file=stream)
    print(file=stream, flush=True)
    return [word for word in run_words(plan.overrides) if not is_hydra(word)]


def _dump(tree: object, stream: TextIO) -> None:
    import yaml

    yaml.safe_dump(tree, stream, sort_keys=False, allow_unicode=True)
