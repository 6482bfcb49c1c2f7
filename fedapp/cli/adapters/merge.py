"""``fedapp merge``: an adapter merged into its base, as a plain folder of transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fedapp.cli.adapters.card import MERGED, PEFT, library_of, write_card
from fedapp.cli.adapters.export import require_free, whole, write_companions
from fedapp.cli.adapters.kept import Kept, attached
from fedapp.config.build import about
from fedapp.core.checks import require_choice
from fedapp.core.files import set_ordinary_modes

DTYPES = ("float32", "bfloat16", "float16")


def merge(source: Path, target: Path, dtype: str = "float32") -> None:
    """Merge a kept adapter into its base and write a model that transformers opens by itself.

    peft merges, in fp32, over the base as its checkpoint has it, whatever number format or quantisation the
    run computed in.

    Args:
        source: The adapter's folder (``<run>/adapters/client-0``).
        target: A folder to make; it must not exist yet or be empty.
        dtype: Number format of the weights that are written.

    Raises:
        ValueError: If the adapter is of a kind that cannot be merged, or as ``fedapp export``.
    """
    require_free(target)
    require_choice("--dtype", dtype, DTYPES)
    with tempfile.TemporaryDirectory() as work:
        exported = Path(work) / "export"
        with attached(source) as kept:
            _require_plain_pooling(kept)
            kept.model.export(exported)
        if library_of(exported) != PEFT:
            name = about(kept.about["adapter"], "name")
            raise ValueError(
                f"{source} cannot be merged: {name} adds nothing to weights, as LoRA and IA3 do; "
                "use it through fedapp predict, or export it"
            )
        with whole(target):
            _write(kept, exported, target, dtype)


def _require_plain_pooling(kept: Kept) -> None:
    pooling = kept.about["model"].get("pooling")
    if pooling:
        raise ValueError(
            f"{kept.folder} cannot be merged: its base has model.pooling={pooling}, which no plain "
            "transformers folder can say; export it"
        )


def _write(kept: Kept, exported: Path, target: Path, dtype: str) -> None:
    from fedapp.adapters.lora.whole_model import merge_exported
    from fedapp.models.checkpoint import quiet_transformers

    node = kept.about["model"]
    labels = tuple(kept.benchmark.labels or ())
    with quiet_transformers():
        model = merge_exported(
            node["path"], node.get("head", "lm"), labels, exported, dtype, node.get("revision")
        )
        model.save_pretrained(str(target))
    write_companions(kept, target)
    write_card(kept, target, MERGED)
    set_ordinary_modes(target)
