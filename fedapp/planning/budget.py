"""What a run trains and sends, worked out from shapes before it starts.

Adapter, routine and strategy are the run's own: the adapter is attached to a base model without
weights, and the two halves of the method say what their messages hold (``fedapp.planning.traffic``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from fedapp.config.build import ConfigError, about, build, build_routine, place
from fedapp.config.composed import Composed
from fedapp.core import files
from fedapp.core.errors import one_line
from fedapp.core.method import AnswerSizes, Moment
from fedapp.core.model import AdaptedModel
from fedapp.core.types import ClientFailure, Shapes, count
from fedapp.planning.preflight import require_fitting
from fedapp.planning.traffic import RunTraffic
from fedapp.server.strategy import build_strategy


@dataclass(frozen=True)
class ClientCost:
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
            a client that has missed a round than is counted here.
        texts: Whether clients send answers, of which lengths are assumed.
        warnings: What to know of these numbers.
    """

    trained: tuple[ClientCost, ...]
    up_values: tuple[int, ...]
    down_values: tuple[int, ...]
    up_bytes: tuple[int, ...]
    down_bytes: tuple[int, ...]
    run_up_bytes: int
    run_down_bytes: int
    exact: bool
    texts: bool = False
    warnings: tuple[str, ...] = ()


def budget_of(config: Composed, answers: AnswerSizes | None = None) -> Budget:
    """Work out the cost of a run.

    Args:
        config: Of the run.
        answers: What is assumed of answers, where clients send these instead of arrays.

    Raises:
        ConfigError: If a setting cannot be used.
    """
    try:
        settings, everybody = config.run, range(config.run.num_clients)
        routine, strategy = build_routine(config), build_strategy(config)
        require_fitting(config, strategy, routine)
        found = {config.variant(client): _trained(config.client(client)) for client in config.one_of_each()}
        each = [found[config.variant(client)][0] for client in everybody]
        arrays = {name: {**cost.frozen, **cost.shapes} for name, (cost, _) in found.items()}
        traffic = RunTraffic(
            settings,
            routine,
            strategy,
            [arrays[config.variant(client)] for client in everybody],
            answers or AnswerSizes(),
        )
        up, down = traffic.total_bytes()
        usual = traffic.usual()
        downloads = usual.down(everybody, Moment(3, "train", traffic.answers))
        return Budget(
            trained=tuple(each),
            up_values=tuple(upload.num_values for upload in usual.uploads),
            down_values=tuple(download.num_values for download in downloads),
            up_bytes=tuple(round(upload.num_bytes) for upload in usual.uploads),
            down_bytes=tuple(round(download.num_bytes) for download in downloads),
            run_up_bytes=up,
            run_down_bytes=down,
            exact=settings.clients_per_round in (0, settings.num_clients),
            texts=any(upload.text_bytes for upload in usual.uploads),
            warnings=tuple(dict.fromkeys(warning for _, warning in found.values() if warning)),
        )
    except (ClientFailure, ValueError, ImportError, OSError) as error:
        raise ConfigError(one_line(error)) from None


def _trained(config: Mapping[str, Any]) -> tuple[ClientCost, str | None]:
    """What a client of this config trains; what to warn of."""
    labels: Sequence[str] = ()
    if config["model"].get("head") == "classification":
        labels = build(config["benchmark"], "benchmark").labels or ()
    parts = (json.dumps(config[part], sort_keys=True) for part in ("model", "adapter", "train"))
    return _attached(*parts, tuple(labels), config["seed"])


_NO_WORDS = {"answers": "text", "loss": "vocabulary", "template": "plain"}
"""How a model is asked and answers changes no shape, and an outline has no tokenizer that knows the words."""


@lru_cache(maxsize=16)
def _attached(
    model: str, adapter: str, train: str, labels: tuple[str, ...], seed: int
) -> tuple[ClientCost, str | None]:
    """The same from the parts that decide it: methods with one adapter attach it once."""
    base, frozen, warning = _base(model, labels)
    made = build(json.loads(adapter), "adapter")
    settings = build(
        {"_target_": "fedapp.core.train_config.TrainConfig", **json.loads(train), **_NO_WORDS}, "train"
    )
    adapted = made.attach(base, settings, seed=seed)
    try:
        return _shapes(adapted, frozen), warning
    finally:
        adapted.detach()


@lru_cache(maxsize=16)
def _base(model: str, labels: tuple[str, ...]) -> tuple[Any, int | None, str | None]:
    """The base without weights, its number of frozen parameters, what to warn of."""
    from fedapp.models.outline import find_config, outline_base, settings_of

    node = json.loads(model)
    if "path" not in node:  # no files: nothing would be loaded, so it is made as it is
        base = build(node, "model", labels=labels)
        return base, base.num_frozen(), None
    with place("model", node):
        folder, warning = find_config(node["path"], about(node, "architecture"))
        base = outline_base(folder, labels=labels, **settings_of(node))
    return base, base.num_frozen(), warning or _of_path(node)


def _of_path(node: Mapping[str, Any]) -> str | None:
    """What to say where ``model.path`` names another model than the choice's own file does."""
    name = about(node, "name")
    file = files.CONF / "model" / f"{name}.yaml"
    usual = yaml.safe_load(file.read_text(encoding="utf-8")).get("path") if file.is_file() else None
    if usual is None or usual == node["path"]:
        return None
    return f"model.path={node['path']!r} is what is counted, not {usual!r}, the model of model={name}"


def clear_cache() -> None:
    """Forget models and adapters: what config.json files held may have changed."""
    _attached.cache_clear()
    _base.cache_clear()


def _shapes(adapted: AdaptedModel, base: int | None) -> ClientCost:
    frozen = adapted.frozen_shapes()
    shapes = {name: shape for name, shape in adapted.shapes().items() if name not in frozen}
    return ClientCost(shapes, frozen, base)
