"""A kept adapter on its base model again, as the run had it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedapp.config.build import build, check_classes
from fedapp.core.errors import one_line
from fedapp.core.model import AdaptedModel
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base
from fedapp.records.adapter_file import read_adapter

PARTS = ("benchmark", "model", "adapter")
_TRAIN = f"{TrainConfig.__module__}.{TrainConfig.__name__}"


@dataclass(frozen=True)
class Kept:
    """An adapter that is attached to its base model.

    Attributes:
        folder: Where it is kept.
        about: Its adapter.json.
        base: The base model; of another kind than ``Base`` in a dry run's toy world.
        model: Base and adapter together.
        benchmark: What it was trained for.
        train: How it was trained, and how it answers.
    """

    folder: Path
    about: Mapping[str, Any]
    base: Any
    model: AdaptedModel
    benchmark: Any
    train: TrainConfig

    @property
    def path(self) -> str:
        """``model.path``: what the base was loaded from."""
        return str(self.about["model"].get("path") or "")


@contextmanager
def attached(folder: Path, **training: Any) -> Iterator[Kept]:
    """Attach a kept adapter to its base model; on leaving, the base is as it was.

    Args:
        folder: With ``adapter.json`` and ``adapter.safetensors`` (``<run>/adapters/client-0``).
        training: Settings of ``train`` to change (``max_new_tokens``); None leaves one as it is.

    Raises:
        ValueError: If the folder holds no adapter, a file of it is damaged, or the base model found here is
            not the one that it was trained on.
    """
    arrays, about = read_adapter(folder)
    for part in PARTS:
        if not isinstance(about[part], Mapping) or "_target_" not in about[part]:
            raise ValueError(f"{folder / 'adapter.json'} is damaged: it does not say how to build the {part}")
    check_classes({part: about[part] for part in PARTS})
    benchmark = build(_without_data(about["benchmark"], folder), "benchmark")
    base = _find_base(folder, about, tuple(benchmark.labels or ()))
    changed = {name: value for name, value in training.items() if value is not None}
    train = build({"_target_": _TRAIN, **about.get("train", {}), **changed}, "train")
    model = build(about["adapter"], "adapter").attach(base, train, seed=about["seed"])
    try:
        try:
            model.load(arrays)
        except ValueError as error:
            raise ValueError(f"{folder / 'adapter.safetensors'} does not fit: {one_line(error)}") from None
        yield Kept(folder, about, base, model, benchmark, train)
    finally:
        model.detach()


def _without_data(node: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A benchmark's node whose data folder may be missing: its template is all that is needed of it."""
    data = node.get("data_dir")
    return {**node, "data_dir": str(folder)} if data and not Path(str(data)).is_dir() else node


def _find_base(folder: Path, about: Mapping[str, Any], labels: tuple[str, ...]) -> Any:
    """The base by its fingerprint; where ``auto`` chose the number format, the one that was chosen then."""
    node, found = about["model"], ""
    formats = [node.get("dtype")] if node.get("dtype") != "auto" else ["auto", "float32", "bfloat16"]
    for dtype in formats:
        base = build({**node, "dtype": dtype} if dtype else node, "model", labels=labels).with_labels(labels)
        if base.fingerprint == about["base-fingerprint"]:
            return _located(base)
        found = found or base.fingerprint
    raise ValueError(
        f"{folder} belongs to the base model {about['base-fingerprint'][:16]}, the one found here is "
        f"{found[:16]}"
    )


def _located(base: Any) -> Any:
    """The base under a path that transformers opens by itself: exports name it."""
    if not isinstance(base, Base):
        return base
    from fedapp.models.loading import find_checkpoint

    return replace(base, path=find_checkpoint(base.path)) if base.path else base
