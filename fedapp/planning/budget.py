"""What a run trains and sends, worked out from shapes before it starts.

Adapter, routine and strategy are the run's own: the adapter is attached to a base model without
weights, the routine says which arrays go up (``upload_spec``), the strategy which come down
(``download_spec``). Bytes are those of the values, as ``payload-bytes`` of traffic.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedapp.config.build import ConfigError, about, build, place
from fedapp.config.clients import client_config, one_of_each, variant
from fedapp.config.run import RunSettings, run_settings
from fedapp.core.errors import one_line
from fedapp.core.sampling import sample
from fedapp.core.types import ClientFailure, Shapes, count
from fedapp.methods.consensus.cost import Answers, ExpectedBytes
from fedapp.planning.preflight import require_fitting
from fedapp.planning.traffic import ITEM_BYTES, Exchange, Wire


@dataclass(frozen=True)
class Trained:
    """What one client trains, and on what.

    Attributes:
        shapes: Of the trainable arrays, by name; those of a classification head begin with ``head.``.
        frozen: Of named arrays that the adapter holds and does not train (``frozen_shapes``).
        base: Number of frozen parameters of the base; None without a model.
    """

    shapes: Shapes
    frozen: Shapes
    base: int | None

    @property
    def head(self) -> int:
        """Trainable parameters of the classification head."""
        return count({name: shape for name, shape in self.shapes.items() if name.startswith("head.")})

    @property
    def adapter(self) -> int:
        """Trainable parameters of the adapter, the head apart."""
        return count(self.shapes) - self.head


@dataclass(frozen=True)
class Budget:
    """The cost of a run. Values are numbers of array entries, bytes are of payloads.

    Attributes:
        trained: What each client trains.
        up_values, down_values: What each client sends and gets in a round of full participation
            (the first round's download is empty).
        up_bytes, down_bytes: The same in bytes.
        run_up_bytes, run_down_bytes: All clients, all rounds, evaluations included.
        exact: Whether all clients take part in every round. Where not, a method may send more to
            a client that has missed a round than ``download_spec`` says.
        texts: Whether clients send answers, of which lengths are assumed.
        warnings: What to know of these numbers.
    """

    trained: tuple[Trained, ...]
    up_values: tuple[int, ...]
    down_values: tuple[int, ...]
    up_bytes: tuple[int, ...]
    down_bytes: tuple[int, ...]
    run_up_bytes: int
    run_down_bytes: int
    exact: bool
    texts: bool = False
    warnings: tuple[str, ...] = ()


def budget_of(config: Mapping[str, Any], answers: Answers | None = None) -> Budget:
    """Work out the cost of a run.

    Args:
        config: The composed tree.
        answers: What is assumed of answers, where clients send these instead of arrays.

    Raises:
        ConfigError: If a setting cannot be used, or the method or adapter does not say what it sends.
    """
    from fedapp.server.strategy import PayloadStrategy

    try:
        settings = run_settings(config)
        routine = build(config["method"]["routine"], "method.routine")
        strategy = build(config["method"]["strategy"], "method.strategy")
        alike = [client_config(config, client_id) for client_id in one_of_each(config)]
        if isinstance(strategy, PayloadStrategy):
            require_fitting(config, alike, strategy, routine)
        found = {variant(config, k): _trained(client_config(config, k)) for k in one_of_each(config)}
        each = [found[variant(config, client)] for client in range(settings.num_clients)]
        warnings = tuple(dict.fromkeys(warning for _, warning in found.values() if warning))
        if hasattr(routine, "expected_bytes"):
            expected = routine.expected_bytes(answers or Answers())
            return _of_texts(settings, expected, tuple(trained for trained, _ in each), warnings)
        wire = Wire.of(routine, strategy, [trained for trained, _ in each])
        up, down = over_the_run(settings, wire)
        everyone, usual = range(settings.num_clients), wire.steady
        return Budget(
            trained=tuple(trained for trained, _ in each),
            up_values=tuple(map(usual.up, everyone)),
            down_values=tuple(usual.down(everyone)),
            up_bytes=tuple(values * ITEM_BYTES[usual.up_dtype] for values in map(usual.up, everyone)),
            down_bytes=tuple(values * ITEM_BYTES[usual.down_dtype] for values in usual.down(everyone)),
            run_up_bytes=up,
            run_down_bytes=down,
            exact=settings.clients_per_round in (0, settings.num_clients),
            warnings=warnings,
        )
    except (ClientFailure, ValueError, ImportError, OSError) as error:
        raise ConfigError(one_line(error)) from None


def _of_texts(
    settings: RunSettings, expected: ExpectedBytes, trained: tuple[Trained, ...], warnings: tuple[str, ...]
) -> Budget:
    """Where clients send answers: each as expected, in all rounds; evaluating needs no download."""
    clients = settings.num_clients
    asked = settings.clients_per_round or clients
    return Budget(
        trained=trained,
        up_values=(0,) * clients,
        down_values=(0,) * clients,
        up_bytes=(round(expected.up),) * clients,
        down_bytes=(round(expected.down),) * clients,
        run_up_bytes=round(expected.up * asked * settings.num_rounds),
        run_down_bytes=round(expected.down * asked * (settings.num_rounds - 1)),
        exact=asked == clients,
        texts=True,
        warnings=warnings,
    )


def over_the_run(settings: RunSettings, wire: Wire) -> tuple[int, int]:
    """Bytes up and down over all rounds, for the clients that the run's seed draws.

    A round: a download for every client drawn (empty in the first exchange), its upload; where the
    round ends with an evaluation, a download for every client of the federation and nothing back.
    """
    clients, every = list(range(settings.num_clients)), settings.evaluate_every
    up = down = 0
    before: tuple[Exchange, list[int]] | None = None
    for server_round in range(0 if wire.asks_ahead else 1, settings.num_rounds + 1):
        exchange = wire.steady if before else wire.first
        drawn = sample(clients, settings.clients_per_round, settings.seed, server_round)
        if before:
            down += before[0].down_bytes(before[1], drawn)
        up += exchange.up_bytes(drawn)
        before = exchange, drawn
        if server_round == settings.num_rounds or (every and server_round and server_round % every == 0):
            down += exchange.down_bytes(drawn, clients)
    return up, down


def _trained(config: Mapping[str, Any]) -> tuple[Trained, str | None]:
    """What a client of this config trains; what to warn of."""
    labels: Sequence[str] = ()
    if config["model"].get("head") == "classification":
        labels = build(config["benchmark"], "benchmark").labels or ()
    parts = (json.dumps(config[part], sort_keys=True) for part in ("model", "adapter", "train"))
    return _attached(*parts, tuple(labels), config["seed"])


@lru_cache(maxsize=16)
def _attached(
    model: str, adapter: str, train: str, labels: tuple[str, ...], seed: int
) -> tuple[Trained, str | None]:
    """The same from the parts that decide it: methods with one adapter attach it once."""
    base, frozen, warning = _base(model, labels)
    made = build(json.loads(adapter), "adapter")
    settings = build({"_target_": "fedapp.core.train_config.TrainConfig", **json.loads(train)}, "train")
    adapted = made.attach(base, settings, seed=seed)
    try:
        return _shapes(adapted, frozen), warning
    finally:
        adapted.detach()


@lru_cache(maxsize=16)
def _base(model: str, labels: tuple[str, ...]) -> tuple[Any, int | None, str | None]:
    """The base without weights, its number of frozen parameters, what to warn of."""
    from fedapp.models.outline import find_config, frozen_parameters, outline_base, settings_of

    node = json.loads(model)
    if "path" not in node:  # no files: nothing would be loaded, so it is made as it is
        base = build(node, "model", labels=labels)
        return base, frozen_parameters(base), None
    with place("model", node):
        folder, warning = find_config(node["path"], about(node, "architecture"))
        base = outline_base(folder, labels=labels, **settings_of(node))
    return base, frozen_parameters(base), warning


def clear_cache() -> None:
    """Forget models and adapters: what config.json files held may have changed."""
    _attached.cache_clear()
    _base.cache_clear()


def _shapes(adapted: Any, base: int | None) -> Trained:
    if not callable(getattr(adapted, "shapes", None)):
        raise ConfigError(f"adapter: {type(adapted).__name__} cannot be counted, it has no shapes()")
    frozen = adapted.frozen_shapes() if hasattr(adapted, "frozen_shapes") else {}
    shapes = {name: shape for name, shape in adapted.shapes().items() if name not in frozen}
    return Trained(shapes, frozen, base)
