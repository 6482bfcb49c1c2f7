"""The ServerApp: compose the config once, build the strategy, run it, close the run folder."""

from __future__ import annotations

import sys
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedapp.config.build import about, build, build_routine
from fedapp.config.compose import load_config
from fedapp.config.composed import Composed
from fedapp.config.overrides import split_words
from fedapp.core.method import TaskFacts
from fedapp.core.public_set import PublicSet
from fedapp.records.checkpoints.opening import open_folder
from fedapp.records.checkpoints.resume import resumed_words
from fedapp.records.folder import RunFolder
from fedapp.records.refusal import refusals_kept
from fedapp.records.table import show_summary
from fedapp.server.directory import ClientDirectory
from fedapp.server.log import show_explained_in_one_line
from fedapp.server.replies import ReplyReader
from fedapp.server.run import ServerRun, limits_of
from fedapp.server.strategy import build_strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation, from the composed config to the summary."""
    show_explained_in_one_line()
    overrides = str(context.run_config.get("overrides", ""))
    with refusals_kept(overrides):
        words = resumed_words(split_words(overrides))
        config = load_config(words)
        strategy, routine = build_strategy(config), build_routine(config)
        folder = open_folder(config, words)
    with folder:
        run = _server_run(folder)
        if routine.needs.public_prompts:
            run.public = PublicSet.of(_benchmark(folder.config))
        strategy.attach(run)
        folder.event("joining", **{"num-clients": folder.config.run.num_clients})
        strategy.join(grid)
        folder.started(run.directory)
        strategy.start(grid)
        folder.finish(strategy.shared(), run.directory.fingerprint(0) or "")
    show_summary(folder.path, sys.stdout)  # into Flower's log: `flwr run --stream` shows it


def _server_run(folder: RunFolder) -> ServerRun:
    config = folder.config
    settings = config.run
    limits = limits_of(settings)
    variants = [config.variant(client_id) for client_id in range(settings.num_clients)]
    expected = {
        name: about(config.client(client_id)["model"], "fingerprint")
        for client_id, name in enumerate(variants)
    }
    directory = ClientDirectory(variants, expected, limits, folder.warning, settings.seats)
    return ServerRun(
        config_json=config.to_json(),
        directory=directory,
        observer=folder,
        reader=ReplyReader(limits, folder.warning, settings.max_norm_ratio, directory.examples),
        settings=settings,
        resumed=folder.resumed,
        task=lambda: _task(config),
    )


def _task(config: Composed) -> TaskFacts:
    benchmark = _benchmark(config)
    labels = tuple(benchmark.labels or ())
    return TaskFacts(benchmark.name, benchmark.template_version, labels, config["adapter"])


def _benchmark(config: Composed) -> Any:
    return build(config["benchmark"], "benchmark")
