"""What a client process keeps between messages, and the session it opens for each.

The frozen base, the adapter on it and the benchmark are made once per process and config; a
message only swaps in its client's data, memory and parameters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedapp.config.build import build
from fedapp.config.clients import client_config, variant
from fedapp.config.run import run_settings
from fedapp.core.checks import shown
from fedapp.core.model import AdaptedModel
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Example, count
from fedapp.methods.hostile import Hostility
from fedapp.models.base import labelled
from fedapp.partition import ClientData, SplitConfig, client_data
from fedapp.partitioners import Partitioning

SPLITS = ("validation", "test")


class Prepared:
    """Everything that one composed config needs on a client, but for the model."""

    def __init__(self, config: Mapping[str, Any], like: Prepared | None = None) -> None:
        """Build benchmark, partitioner, routine and the settings of training and scoring.

        Args:
            config: The composed tree, as it holds for a client.
            like: What another client of the same run needs; its data are taken over.

        Raises:
            ConfigError: If a setting cannot be used.
            ClientFailure: If a setting of the scores cannot be used.
        """
        self.config = config
        self.settings = run_settings(config)
        self.train: TrainConfig = _settings(TrainConfig, config["train"], "train")
        self.split: SplitConfig = _settings(SplitConfig, config["split"], "split")
        self.score = _score_settings(config["score"])
        self.routine = build(config["method"]["routine"], "method.routine")
        self.hostility = _hostility(config["hostile"], self.settings.num_clients)
        self.partitioner: Partitioning = (
            like.partitioner if like else Partitioning.of(config["partitioner"]["build"])
        )
        self.benchmark: Any = (
            like.benchmark if like else build(config["benchmark"]["build"], "benchmark.build")
        )
        asks = getattr(self.routine, "needs_public_prompts", False)
        self.public: PublicSet | None = PublicSet.of(self.benchmark) if asks else None

    def data(self, client_id: int) -> ClientData:
        """A client's own data.

        Raises:
            ValueError: If the data cannot be read or divided.
            ClientFailure: If the method needs validation rows and this client has none.
        """
        settings = self.settings
        data = client_data(
            self.benchmark,
            self.partitioner,
            client_id,
            settings.num_clients,
            seed=settings.seed,
            split=self.split,
        )
        if not data.val and getattr(self.routine, "needs_validation", False):
            raise ClientFailure(
                f"client {client_id} has {len(data.train)} training rows and no validation row, but this "
                f"method chooses on validation rows: raise split.val_share={self.split.val_share} "
                "or take a method that does not"
            )
        return data


class Workplace(Prepared):
    """The same with the base model and the adapter on it."""

    def __init__(self, config: Mapping[str, Any], like: Prepared | None = None) -> None:
        """Build all that ``Prepared`` holds, load the base model and attach the adapter.

        Raises:
            ConfigError: If a setting cannot be used.
            ClientFailure: If the method cannot work with this adapter; ValueError if with a setting of it.
        """
        super().__init__(config, like)
        self.run = config  # of all clients, where they differ
        labels = tuple(self.benchmark.labels or ())
        self.base = build(config["model"]["build"], "model.build", labels=labels)
        self.base.set_num_threads(self.settings.num_threads)
        adapter = build(config["adapter"]["build"], "adapter.build")
        self.model: AdaptedModel = adapter.attach(
            labelled(self.base, labels), self.train, seed=self.settings.seed
        )
        try:
            getattr(self.routine, "check_model", _no_check)(self.model)
        except (ClientFailure, ValueError):
            self.model.detach()
            raise

    def session(self, client_id: int, server_round: int, state: Arrays, phase: str) -> ClientSession:
        """Open what a routine works with; the model is back at the run's initial parameters."""
        self.model.reset()
        data = self.data(client_id)
        phases = {"train": 0, "evaluate": 1}
        rng = np.random.default_rng([self.settings.seed, client_id, server_round, phases[phase]])
        session = ClientSession(
            client_id, server_round, self.model, data.train, data.val, data.test, state, rng
        )
        session.metric = self._main_metric
        session.public = self.public
        return session

    def rows(self, session: ClientSession, model: str, moment: str) -> list[dict[str, Any]]:
        """Score the model, as it stands, on the splits that the config names."""
        sets: dict[str, Sequence[Example]] = {"validation": session.val_set, "test": session.test_set}
        rows = []
        for split in self.score["splits"]:
            if not sets[split]:
                continue
            scores = self._scores(sets[split])
            rows.append(
                {"split": split, "model": model, "moment": moment, "num-examples": len(sets[split]), **scores}
            )
        return rows

    def _scores(self, examples: Sequence[Example]) -> dict[str, float]:
        answers = [self.benchmark.extract(text) for text in self.model.generate([e.prompt for e in examples])]
        scores = self.benchmark.score(answers, [e.target for e in examples])
        loss = self.model.loss(examples)
        known = {} if loss != loss else {"loss": loss}  # a black box that only answers has none
        return {**known, **{name: float(value) for name, value in scores.items()}}

    def _main_metric(self, examples: Sequence[Example]) -> float:
        answers = [self.benchmark.extract(text) for text in self.model.generate([e.prompt for e in examples])]
        return float(next(iter(self.benchmark.score(answers, [e.target for e in examples]).values())))


_current: tuple[str, str, Workplace] | None = None


def workplace(config_json: str, client_id: int) -> Workplace:
    """The workplace of a run's client; the last one used in this process is kept."""
    global _current
    if _current is not None and _current[0] == config_json:
        run = _current[2].run
        if _current[1] == variant(run, client_id):
            return _current[2]
        like: Prepared | None = _current[2]
    else:
        run, like = json.loads(config_json), None
    close()
    place = Workplace(client_config(run, client_id), like)
    place.run = run
    _current = (config_json, variant(run, client_id), place)
    return place


def close() -> None:
    """Leave the base model, which other configs share, as it was."""
    global _current
    if _current is not None:
        _current[2].model.detach()
        _current = None


def serve(phase: str, facts: Mapping[str, Any], download: Any, state: Arrays) -> tuple[dict[str, Any], Any]:
    """Do a round's work for one client.

    Args:
        phase: ``train`` or ``evaluate``.
        facts: The server's facts: config, client id, round, fingerprint.
        download: The payload for this client.
        state: The client's memory; changed in place.

    Returns:
        Facts of the reply, and the payload to send (None when evaluating).
    """
    started = time.monotonic()
    place = workplace(facts["config"], facts["client-id"])
    check_fingerprint(place, facts.get("fingerprint"), facts["client-id"])
    session = place.session(facts["client-id"], facts["server-round"], state, phase)
    routine = place.hostility.routine(place.routine, session.client_id, place.settings.seed)
    rows: list[dict[str, Any]] = []
    wanted = place.score
    session.scorer = lambda model, moment: rows.extend(
        place.rows(session, model, moment) if wanted[moment] else []
    )
    payload = None
    if phase == "train":
        if facts["server-round"] == 1 and wanted["base"]:
            with place.model.disabled():
                rows += place.rows(session, "base", "before")
        payload, metrics = routine.train(download, session)
    else:
        session.scorer = None
        routine.evaluate(download, session)
        metrics = dict(session.metrics)
        rows += place.rows(session, "final" if facts.get("final") else "current", "after")
    reply = {
        "num-examples": len(session.train_set),
        "metrics": metrics,
        "rows": rows,
        "seconds": time.monotonic() - started,
        "about": {
            "train": len(session.train_set),
            "validation": len(session.val_set),
            "test": len(session.test_set),
            "parameters": count(place.model.shapes()),
            "tasks": sorted({example.task for example in session.train_set}),
        },
    }
    return reply, payload


def check_fingerprint(place: Workplace, expected: Any, client_id: int) -> None:
    """Refuse to work on another base model than the run's.

    Raises:
        ClientFailure: If this node's base model is not the one that the server expects.
    """
    if expected is not None and expected != place.base.fingerprint:
        raise ClientFailure(
            f"client {client_id} has the base model {place.base.fingerprint[:16]}, "
            f"this run's is {str(expected)[:16]}"
        )


def save_adapter(place: Workplace, client_id: int, node_folder: str | None) -> None:
    """Keep the client's final adapter on the client's own machine.

    It goes below the node's ``output-dir``, else into the run folder where that is on this
    machine (a simulation). Parameters that a method does not share thus never leave the client.
    """
    from fedapp.runs import write_adapter

    run_dir = place.config.get("run_dir")
    folder = Path(node_folder) if node_folder else Path(run_dir) / "adapters" if run_dir else None
    if folder is None or not (node_folder or folder.parent.is_dir()):
        return
    write_adapter(
        folder / f"client-{client_id}", place.model.parameters(), place.config, place.base.fingerprint
    )


def _no_check(model: AdaptedModel) -> None:
    """For routines that take any adapter."""


def _settings(kind: type, node: Any, where: str) -> Any:
    """The settings dataclass ``kind`` from its node."""
    if not isinstance(node, Mapping):
        raise ClientFailure(f"{where}={shown(node)} must hold settings, as conf/config.yaml shows them")
    return build({"_target_": f"{kind.__module__}.{kind.__name__}", **node}, where)


def _hostility(node: Any, num_clients: int) -> Hostility:
    if not isinstance(node, Mapping):
        raise ClientFailure(f"hostile={shown(node)} must hold clients and build, as conf/hostile shows them")
    corruption = None if node.get("build") is None else build(node["build"], "hostile.build")
    return Hostility.of(node, corruption, num_clients)


def _score_settings(node: Any) -> dict[str, Any]:
    expected = "score must hold splits (a list), base, before and after (true or false)"
    if not isinstance(node, Mapping) or set(node) != {"splits", "base", "before", "after"}:
        raise ClientFailure(f"score={shown(node)} cannot be used: {expected}")
    splits = node["splits"]
    if not isinstance(splits, Sequence) or isinstance(splits, str):
        raise ClientFailure(f"score.splits={splits!r} must be a list of: {', '.join(SPLITS)}")
    for split in splits:
        if split not in SPLITS:
            raise ClientFailure(f"score.splits={split!r} must be one of: {', '.join(SPLITS)}")
    for name in ("base", "before", "after"):
        if not isinstance(node[name], bool):
            raise ClientFailure(f"score.{name}={node[name]!r} must be true or false")
    return dict(node)
