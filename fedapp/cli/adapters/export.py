"""``fedapp export``: a run's adapter in the format of its own library (pyreft, peft)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedapp.cli.adapters.card import write_card
from fedapp.cli.adapters.kept import Kept, attached
from fedapp.core.errors import one_line
from fedapp.core.files import set_ordinary_modes
from fedapp.models.base import Base

LABELS_FILE = "labels.json"


def export(source: Path, target: Path) -> None:
    """Attach a kept adapter to its base model and write it in its library's format.

    Beside the library's own files stand the tokenizer, the labels of a benchmark that has any, and a model
    card (README.md).

    Args:
        source: A folder with ``adapter.safetensors`` (``<run>/adapters/client-0``).
        target: A folder to make; it must not exist yet or be empty.

    Raises:
        ValueError: If the source is no adapter or damaged, the target is taken, or the base model found here
            is not the one that the adapter was trained on, or the target cannot be written.
    """
    require_free(target)
    with attached(source) as kept, whole(target):
        kept.model.export(target)
        write_companions(kept, target)
        write_card(kept, target)
        set_ordinary_modes(target)


def require_free(target: Path) -> None:
    """Refuse a target that holds something.

    Raises:
        ValueError: If it is no empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"the target {target} exists and is not an empty folder; name another one")


def write_companions(kept: Kept, folder: Path) -> None:
    """The base's tokenizer, and the labels in the order of their numbers."""
    if isinstance(kept.base, Base):
        kept.base.tokenizer.save_pretrained(str(folder))
    labels = list(kept.benchmark.labels or ())
    if labels:
        text = json.dumps({"id2label": dict(enumerate(labels))}, indent=2, ensure_ascii=False)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")


@contextmanager
def whole(target: Path) -> Iterator[None]:
    """Leave nothing of a folder that the disk does not take, or that cannot be completed.

    Raises:
        ValueError: If it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise ValueError(f"{target} cannot be written: {one_line(error)}") from error
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
