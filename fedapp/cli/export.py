"""``fedapp export``: a run's adapter in the format of its own library (pyreft, peft)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedapp.config.build import build
from fedapp.core.errors import one_line
from fedapp.records.adapter_file import read_adapter


def export(source: Path, target: Path) -> None:
    """Attach a kept adapter to its base model and write it in its library's format.

    Args:
        source: A folder with ``adapter.safetensors`` (``<run>/adapters/client-0``).
        target: A folder to make; it must not exist yet or be empty.

    Raises:
        ValueError: If the source is no adapter or damaged, the target is taken, or the base model found here
            is not the one that the adapter was trained on, or the target cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"the target {target} exists and is not an empty folder; name another one")
    arrays, about = read_adapter(source)
    for part in ("benchmark", "model", "adapter"):
        if not isinstance(about[part], Mapping) or "_target_" not in about[part]:
            raise ValueError(f"{source / 'adapter.json'} is damaged: it does not say how to build the {part}")
    benchmark = build(about["benchmark"], "benchmark")
    labels = tuple(benchmark.labels or ())
    base = build(about["model"], "model", labels=labels).with_labels(labels)
    if base.fingerprint != about["base-fingerprint"]:
        raise ValueError(
            f"{source} belongs to the base model {about['base-fingerprint'][:16]}, "
            f"the one found here is {base.fingerprint[:16]}"
        )
    train = build({"_target_": "fedapp.core.train_config.TrainConfig"}, "train")
    model = build(about["adapter"], "adapter").attach(base, train, seed=about["seed"])
    try:
        model.load(arrays)
        with _whole(target):
            model.export(target)
    finally:
        model.detach()


@contextmanager
def _whole(target: Path) -> Iterator[None]:
    """Leave nothing of an export that the disk does not take."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise ValueError(f"{target} cannot be written: {one_line(error)}") from error
