"""Whether a checkpoint held what its model is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Tables that old checkpoints carry and models work out for themselves.
_TABLES = re.compile(r"(\.attn\.masked_bias|\.rotary_emb\.inv_freq|position_ids)$")


def require_whole(model: Any, info: Mapping[str, Any], head: str, path: str) -> None:
    """Refuse a model of which a part would be random, or a checkpoint of which a part was passed over.

    A language model lacks nothing and leaves nothing over. With another head (``classification``, or an
    encoder used for its states) what lies outside the backbone is free, and the backbone may lack its
    pooler.

    Args:
        model: The loaded transformers model.
        info: Transformers' loading info: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``,
            ``error_msgs``.
        head: ``lm``, or anything else.
        path: For messages.

    Raises:
        ValueError: In one line with the first names and their number.
    """
    kind = type(model).__name__
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(info["mismatched_keys"])
    if head != "lm":
        inside = f"{model.base_model_prefix}." if model.base_model is not model else ""
        missing = [name for name in missing if _of_backbone(name, inside)]
        mismatched = [item for item in mismatched if _of_backbone(item[0], inside)]
        children = {name.split(".")[0] for name, _ in model.base_model.named_parameters()}
        own = f"{model.base_model_prefix}."
        unexpected = [name for name in unexpected if name.removeprefix(own).split(".")[0] in children]
    unexpected = [name for name in unexpected if not _TABLES.search(name)]
    if missing:
        hint = _prefix_hint(missing, info)
        raise ValueError(f"path={path!r} lacks {_named(missing)} of {kind}: they would be random{hint}")
    if unexpected:
        raise ValueError(
            f"path={path!r} holds {_named(unexpected)} that {kind} does not have: its config.json describes "
            "another model"
        )
    if mismatched:
        name, found, wanted = mismatched[0]
        raise ValueError(
            f"path={path!r} holds {_named([item[0] for item in mismatched])} of other sizes than {kind} has "
            f"({name}: {tuple(found)}, not {tuple(wanted)}): its config.json describes another model"
        )
    if info["error_msgs"]:
        raise ValueError(f"path={path!r} cannot be loaded as {kind}: {info['error_msgs'][0]}")


def _of_backbone(name: str, prefix: str) -> bool:
    """Whether a parameter must come from the checkpoint: of the backbone, and not its pooler's."""
    return name.startswith(prefix) and not name.startswith(f"{prefix}pooler.")


def _named(names: Sequence[str], most: int = 3) -> str:
    count = f"{len(names)} tensor" + ("s" if len(names) > 1 else "")
    return f"{count} ({', '.join(names[:most])}{', …' if len(names) > most else ''})"


def _prefix_hint(missing: Sequence[str], info: Mapping[str, Any]) -> str:
    """Where the same names are there behind a prefix (``module.``, by torch's parallel wrappers)."""
    for name in sorted(info["unexpected_keys"]):
        for wanted in missing:
            if name.endswith(f".{wanted}"):
                prefix = name[: -len(wanted)]
                return f"; it holds {name}: take the prefix {prefix!r} off its names"
    return ""
