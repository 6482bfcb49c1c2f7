"""What a client process keeps between messages, and the session it opens for each.

The frozen base, the adapter on it and the benchmark are made once per process and config; a
message only swaps in its client's data, memory and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapp.client.dealing import Partitioning
from fedapp.client.hostile import Hostility
from fedapp.client.rows import ClientData, SplitConfig, client_data
from fedapp.client.scoring import ScoreConfig, Scorer
from fedapp.config.build import build, build_routine
from fedapp.config.composed import Composed
from fedapp.core.checks import show_value
from fedapp.core.method import ClientRoutine, Moment, Phase
from fedapp.core.model import AdaptedModel, ChoosingModel
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure
from fedapp.models.base import Base

if TYPE_CHECKING:
    from fedapp.training.expression import Expression


class ClientSetup:
    """Everything that one composed config needs on a client, but for the model."""

    def __init__(self, config: Composed, like: ClientSetup | None = None) -> None:
        """Build benchmark, partitioner, routine and the settings of training and scoring.

        Args:
            config: As it holds for a client.
            like: What another client of the same run needs; its data are taken over.

        Raises:
            ConfigError: If a setting cannot be used.
            ClientFailure: If a setting of the scores cannot be used.
        """
        self.config = config
        self.train: TrainConfig = _settings(TrainConfig, config["train"], "train")
        self.split: SplitConfig = _settings(SplitConfig, config["split"], "split")
        self.score = ScoreConfig.of(config["score"])
        self.routine = build_routine(config)
        self.hostility = _hostility(config["hostile"], config.run.num_clients)
        self.partitioner: Partitioning = like.partitioner if like else Partitioning.of(config["partitioner"])
        self.benchmark: Any = like.benchmark if like else build(config["benchmark"], "benchmark")
        if self.score.matrix and not self.partitioner.divides:
            raise ClientFailure(
                "score.matrix=true needs the test rows of all clients in one place, and with "
                "partitioner=private nobody has them: set score.matrix=false"
            )
        asks = self.routine.needs.public_prompts
        self.public: PublicSet | None = PublicSet.of(self.benchmark) if asks else None

    def data(self, client_id: int) -> ClientData:
        """A client's own data.

        Raises:
            ValueError: If the data cannot be read or divided.
            ClientFailure: If the method needs validation rows and this client has none.
        """
        run = self.config.run
        data = client_data(
            self.benchmark, self.partitioner, client_id, run.num_clients, seed=run.seed, split=self.split
        )
        if not data.val and self.routine.needs.validation_rows:
            raise ClientFailure(
                f"client {client_id} has {len(data.train)} training rows and no validation row, but this "
                f"method chooses on validation rows: raise split.val_share={self.split.val_share} "
                "or take a method that does not"
            )
        return data


class Workplace:
    """A client's setup with the base model and the adapter on it."""

    def __init__(self, config: Composed, like: ClientSetup | None = None) -> None:
        """Build all that ``ClientSetup`` holds, load the base model and attach the adapter.

        Raises:
            ConfigError: If a setting cannot be used.
            ClientFailure: If the method cannot work with this adapter; ValueError if with a setting of it.
        """
        self.setup = ClientSetup(config, like)
        labels = tuple(self.setup.benchmark.labels or ())
        self.base = build(config["model"], "model", labels=labels)
        self.base.set_num_threads(config.run.num_threads)
        adapter = build(config["adapter"], "adapter")
        self.model: AdaptedModel = adapter.attach(
            self.base.with_labels(labels), self.setup.train, seed=config.run.seed
        )
        try:
            require_model(self.setup.routine, self.model)
            require_ratings(self.setup.benchmark, self.model)
        except (ClientFailure, ValueError):
            self.model.detach()
            raise
        self._expression = self._make_expression()
        known = {} if self._expression is None else {"lost_share": self._expression.lost_share}
        self.scorer = Scorer(self.model, self.setup.benchmark, self.setup.score, **known)

    def _make_expression(self) -> Expression | None:
        """What the base can write; None for one that is not ours to look into, which answers as it does."""
        if not isinstance(self.base, Base):
            return None
        from fedapp.training.expression import Expression  # torch, which a dry run does without

        benchmark, answers = self.setup.benchmark, self.setup.train.answers
        told = self.base.with_labels(tuple(benchmark.labels or ()))
        return Expression(told, answers, benchmark.extract, benchmark.score)

    def check_answers(self, client_id: int) -> None:
        """Refuse a model that cannot write what this client's rows ask for, whatever it learns.

        Raises:
            ValueError: If it cannot write a label word, or none of the training answers.
        """
        if self._expression is not None:
            self._expression.require_labels(tuple(self.setup.benchmark.labels or ()))
            train = self.setup.data(client_id).train
            self._expression.require_targets([example.target for example in train], f"client {client_id}")

    def session(self, client_id: int, server_round: int, state: Arrays, phase: Phase) -> ClientSession:
        """Open what a routine works with; the model is back at the run's initial parameters."""
        self.model.reset()
        data = self.setup.data(client_id)
        purpose = 1 if phase == "evaluate" else 0
        rng = np.random.default_rng([self.setup.config.run.seed, client_id, server_round, purpose])
        session = ClientSession(
            client_id, server_round, self.model, data.train, data.val, data.test, state, rng
        )
        session.metric = self.scorer.main_metric
        session.public = self.setup.public
        session.rows_per_round = self.setup.train.rows_per_round(len(data.train))
        return session


def require_model(routine: ClientRoutine, model: AdaptedModel) -> None:
    """Refuse a model that a routine cannot work with.

    Raises:
        ClientFailure: If it is of another kind, or has nothing that the routine could send.
    """
    needs = routine.needs
    if not isinstance(model, needs.model):
        raise ClientFailure(f"this method needs {needs.hint}, not {type(model).__name__}")
    routine.upload({**model.frozen_shapes(), **model.shapes()}, Moment(1))


def require_ratings(benchmark: Any, model: AdaptedModel) -> None:
    """Refuse a model that cannot say how likely an option is, where the benchmark asks for that.

    Raises:
        ClientFailure: If it only answers.
    """
    if benchmark.has_options and not isinstance(model, ChoosingModel):
        raise ClientFailure(
            f"benchmark.scoring='loglikelihood' needs a model that rates options, not "
            f"{type(model).__name__}: set benchmark.scoring=generate"
        )


_current: tuple[str, str, Workplace] | None = None


@lru_cache(maxsize=4)
def read_config(config_json: str) -> Composed:
    """The config of a run's messages, or the party's own form of it."""
    return Composed.from_json(config_json)


def workplace(config_json: str, client_id: int) -> Workplace:
    """The workplace of a run's client; the last one used in this process is kept."""
    global _current
    run = read_config(config_json)
    like: ClientSetup | None = None
    if _current is not None and _current[0] == config_json:
        if _current[1] == run.variant(client_id):
            return _current[2]
        like = _current[2].setup
    close()
    place = Workplace(run.client(client_id), like)
    _current = (config_json, run.variant(client_id), place)
    return place


def close() -> None:
    """Leave the base model, which other configs share, as it was."""
    global _current
    if _current is not None:
        _current[2].model.detach()
        _current = None


def _settings(kind: type, node: Any, where: str) -> Any:
    """The settings dataclass ``kind`` from its node."""
    if not isinstance(node, Mapping):
        raise ClientFailure(f"{where}={show_value(node)} must hold settings, as conf/config.yaml shows them")
    return build({"_target_": f"{kind.__module__}.{kind.__name__}", **node}, where)


def _hostility(node: Any, num_clients: int) -> Hostility:
    if not isinstance(node, Mapping):
        raise ClientFailure(
            f"hostile={show_value(node)} must hold clients and _target_, as conf/hostile shows them"
        )
    what = {key: value for key, value in node.items() if key != "clients"}
    corruption = build(what, "hostile") if "_target_" in what else None
    return Hostility.of(node, corruption, num_clients)
