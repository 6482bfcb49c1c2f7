"""What a client process keeps between messages, and the session it opens for each.

The frozen base, the adapter on it and the benchmark are made once per process and config; a
message only swaps in its client's data, memory and parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedapp.client.dealing import Partitioning
from fedapp.client.hostile import Hostility
from fedapp.client.rows import ClientData, SplitConfig, client_data
from fedapp.client.scoring import score_settings
from fedapp.config.build import build
from fedapp.config.clients import client_config, variant
from fedapp.config.run import run_settings
from fedapp.core.checks import show_value
from fedapp.core.model import AdaptedModel
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Example
from fedapp.models.base import labelled


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
        self.score = score_settings(config["score"])
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


def _no_check(model: AdaptedModel) -> None:
    """For routines that take any adapter."""


def _settings(kind: type, node: Any, where: str) -> Any:
    """The settings dataclass ``kind`` from its node."""
    if not isinstance(node, Mapping):
        raise ClientFailure(f"{where}={show_value(node)} must hold settings, as conf/config.yaml shows them")
    return build({"_target_": f"{kind.__module__}.{kind.__name__}", **node}, where)


def _hostility(node: Any, num_clients: int) -> Hostility:
    if not isinstance(node, Mapping):
        raise ClientFailure(
            f"hostile={show_value(node)} must hold clients and build, as conf/hostile shows them"
        )
    corruption = None if node.get("build") is None else build(node["build"], "hostile.build")
    return Hostility.of(node, corruption, num_clients)
