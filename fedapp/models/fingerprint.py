"""One number for what decides a base model's answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# Names in a config that decide no answer: where it came from, how it is run, what a label is called.
_DECIDES_NOTHING = frozenset(
    (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_from_model_config",
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "finetuning_task",
        "gradient_checkpointing",
        "id2label",
        "label2id",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)


def fingerprint_of(
    model: nn.Module,
    *,
    skip: Sequence[str] = (),
    tokenizer: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Hash what decides the answers: frozen weights, the config's numbers, tokenizer, generation settings.

    Of the config all counts but for a list of names that decide nothing. A value that is the default of
    its class is left out: so two versions of transformers, of which one knows a setting more, agree.

    Args:
        model: Any transformers model; what is not in its state dict (rotary tables) counts by its config.
        skip: State-dict names that are left out (the trainable head).
        tokenizer: The tokenizer; None leaves it out.
        settings: What else decides the answers, such as how a classifier pools; None values are not set.

    Returns:
        64 hex digits of sha256; equal weights in another dtype give another value.
    """
    import torch

    facts = {
        "config": _plain(config_facts(model.config)),
        "generation": _plain(generation_facts(model)),
        "tokenizer": None if tokenizer is None else tokenizer_facts(tokenizer),
        "settings": {key: value for key, value in (settings or {}).items() if value is not None},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    left_out = set(skip)
    for name, value in sorted(model.state_dict().items()):
        if name in left_out:
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_facts(config: Any) -> dict[str, Any]:
    """What of a transformers config decides answers and is not its class's default."""
    try:
        usual = type(config)().to_dict()
    except Exception:  # a config that has no defaults of its own
        usual = {}
    return {"model_type": config.model_type, **_differing(config.to_dict(), usual)}


def generation_facts(model: Any) -> dict[str, Any]:
    """The generation settings that a model carries; none for one that does not generate."""
    if not model.can_generate() or model.generation_config is None:
        return {}
    from transformers import GenerationConfig

    return _differing(model.generation_config.to_dict(), GenerationConfig().to_dict())


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary, merges, normaliser, special tokens and the longest input of a tokenizer.

    What the last call set for cutting and padding is no part of it.
    """
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state = {key: value for key, value in state.items() if key not in ("truncation", "padding")}
    else:
        state = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    special = {
        name: tokenizer.convert_tokens_to_ids(token) for name, token in tokenizer.special_tokens_map.items()
    }
    return {
        "state": state,
        "special": special,
        "model_max_length": tokenizer.model_max_length,
        "truncation_side": tokenizer.truncation_side,
        "clean_up": tokenizer.clean_up_tokenization_spaces,
    }


def _differing(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if key in _DECIDES_NOTHING or (key in usual and usual[key] == value):
            continue
        if isinstance(value, Mapping):
            inner = usual.get(key)
            value = _differing(value, inner if isinstance(inner, Mapping) else {})
        found[str(key)] = value
    return found


def _plain(value: Any) -> Any:
    """Numbers as numbers whatever their type (10000 and 10000.0), anything else that JSON lacks as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    return float(value) if isinstance(value, (int, float)) else str(value)
