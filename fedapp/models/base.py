"""Frozen base models: found, loaded and fingerprinted once per process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedapp.core.checks import require_choice
from fedapp.models.fingerprint import fingerprint_of as fingerprint_of
from fedapp.models.loading import QUANTIZATIONS, read_model, resolve_device
from fedapp.models.processor import AUTO, choose
from fedapp.models.structure import pool_by_mean

if TYPE_CHECKING:
    from torch import nn

_HEADS = ("lm", "classification")
_DTYPES = ("float32", "bfloat16", "float16", AUTO)
GENERATION = ("plain", "checkpoint")
_loaded: dict[tuple[Any, ...], Base] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Base:
    """A frozen base model with what an adapter must know of it.

    Attributes:
        model: The transformers model, in eval mode, no parameter requires a gradient.
        tokenizer: Its tokenizer, with a padding token.
        head: ``lm`` (answers are text) or ``classification`` (answers are labels).
        labels: Label names in index order; ``load_base`` leaves them empty for ``lm``.
        fingerprint: Hex sha256 of what decides its answers (``fedapp.models.fingerprint``).
        device: Where the model lives.
        head_parameters: Names of the model's parameters that are trained with the adapter
            (the classification head); they are no part of the fingerprint.
        path: Folder or hub id that it was loaded from.
        generation: As in ``load_base``.
    """

    model: Any
    tokenizer: Any
    head: str
    labels: tuple[str, ...]
    fingerprint: str
    device: Any
    head_parameters: tuple[str, ...] = ()
    path: str = ""
    generation: str = "plain"

    def set_num_threads(self, count: int) -> None:
        """Use this many CPU threads in this process; results depend on it in the last bits."""
        import torch

        torch.set_num_threads(count)

    def with_labels(self, labels: Sequence[str]) -> Base:
        """The same base, told the benchmark's label words; a language model as such has none."""
        return replace(self, labels=tuple(labels)) if labels and not self.labels else self

    def num_frozen(self) -> int:
        """Number of values that stay as they are: all but those of a classification head."""
        trained = set(self.head_parameters)
        return sum(value.numel() for name, value in self.model.named_parameters() if name not in trained)


def load_base(
    path: str,
    *,
    head: str = "lm",
    labels: Sequence[str] = (),
    dtype: str = "float32",
    device: str = "auto",
    seed: int = 0,
    attn_implementation: str | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    fingerprint: str | None = None,
    pooling: str | None = None,
    generation: str = "plain",
) -> Base:
    """Load a base model; the same arguments give the same object within a process.

    Args:
        path: Local folder, hub id, ``asset:<name>``, ``package:<module>[/subfolder]``, or a GGUF file.
        head: ``lm`` or ``classification``.
        labels: Label names, for classification.
        dtype: Of the frozen weights: float32, bfloat16, float16; ``auto``: see ``models.processor``.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1`` …
        seed: Draws the classification head, the same on every client.
        attn_implementation: ``sdpa``, ``eager`` …; None: transformers chooses; ``auto``: as for dtype.
        quantization: None, ``8bit`` or ``4bit`` (see ``fedapp.models.loading``).
        revision: Commit or tag of a hub model.
        fingerprint: What the loaded weights must hash to; None accepts any.
        pooling: What a classification head reads: None, as the architecture has it, or ``mean``.
        generation: Of generation_config.json: ``plain``: where a sequence ends; ``checkpoint``: all.

    Raises:
        ValueError: If a setting is unknown, the model cannot be loaded, or its fingerprint differs.
    """
    names = tuple(labels) if head == "classification" else ()
    check_settings(head, names, dtype, pooling, quantization, generation)
    place = resolve_device(device)
    dtype, attention = choose(dtype, attn_implementation, place)
    options = {"attn_implementation": attention, "revision": revision, "quantization": quantization}
    key = (path, head, names, dtype, device, seed, *options.values(), pooling, generation)
    with _lock:
        if key not in _loaded:
            model, tokenizer, missing = read_model(path, head, names, dtype, place, seed, options)
            made: dict[str, Any] = {"head": head, "labels": names, "seed": seed, "device": place}
            made |= {"path": path, "missing": missing, "pooling": pooling, "generation": generation}
            _loaded[key] = make_base(model, tokenizer, **made)
        base = _loaded[key]
    if fingerprint in (None, "", base.fingerprint):
        return base
    raise ValueError(f"fingerprint={fingerprint!r} is expected, {path!r} has {base.fingerprint!r}")


def check_settings(
    head: str,
    labels: Sequence[str],
    dtype: str,
    pooling: str | None,
    quantization: str | None = None,
    generation: str = "plain",
) -> None:
    """Refuse what ``load_base`` cannot use.

    Raises:
        ValueError: In one line that begins with the setting.
    """
    require_choice("head", head, _HEADS)
    if quantization is not None and quantization not in QUANTIZATIONS:
        known = ", ".join(("null", *QUANTIZATIONS))
        raise ValueError(f"quantization={quantization!r} must be one of: {known}")
    require_choice("dtype", dtype, _DTYPES)
    if head == "classification" and len(labels) < 2:
        raise ValueError(f"head='classification' needs at least 2 labels, the benchmark gives {len(labels)}")
    if pooling not in (None, "mean") or (pooling and head != "classification"):
        raise ValueError(f"pooling={pooling!r} must be null, or 'mean' with head=classification")
    require_choice("generation", generation, GENERATION)
    if generation != "plain" and head != "lm":
        raise ValueError(f"generation={generation!r} has no effect with head={head!r}: leave it plain")


def make_base(
    model: Any,
    tokenizer: Any,
    *,
    head: str = "lm",
    labels: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    path: str = "",
    missing: Sequence[str] = (),
    pooling: str | None = None,
    generation: str = "plain",
) -> Base:
    """Freeze a transformers model that is already in memory and wrap it.

    Args:
        model: A causal LM or a sequence classifier.
        tokenizer: Its tokenizer; without a padding token it pads with its end-of-sequence token.
        head: As in ``load_base``, and so are labels, seed, pooling and generation.
        labels: Label names.
        seed: Draws the head.
        device: Where the model is to live.
        path: Where it came from, for messages and exports.
        missing: Parameter names that the checkpoint did not contain; of a classifier, part of its head.
        pooling: What a head reads.
        generation: What shapes answers.
    """
    model = model.to(device).eval().requires_grad_(False)
    _set_padding(model, tokenizer)
    names: tuple[str, ...] = ()
    if head == "classification":
        names = head_names(model, missing)
        _draw_head(model, names, seed)
    if pooling:
        pool_by_mean(model)
    if generation == "plain":
        _generate_plainly(model)
    return Base(
        model=model,
        tokenizer=tokenizer,
        head=head,
        labels=tuple(labels),
        fingerprint=fingerprint_of(model, skip=names, tokenizer=tokenizer, settings={"pooling": pooling}),
        device=next(model.parameters()).device,
        head_parameters=names,
        path=path,
        generation=generation,
    )


def _set_padding(model: Any, tokenizer: Any) -> None:
    """See that both know a padding token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _generate_plainly(model: Any) -> None:
    """Leave of the checkpoint's generation settings only where a sequence ends.

    Transformers fills whatever ``generate`` is not told from the model's own settings.
    """
    if not model.can_generate() or model.generation_config is None:
        return
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)


def head_names(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Parameters outside the backbone, plus those that the checkpoint lacks (a new pooler)."""
    prefix = f"{model.base_model_prefix}."
    lacking = set(missing)
    return tuple(sorted(n for n, _ in model.named_parameters() if not n.startswith(prefix) or n in lacking))


def _draw_head(model: nn.Module, names: Sequence[str], seed: int) -> None:
    """Draw the head in fp32 from the seed alone, whatever the base's dtype or library version."""
    import torch

    spread = getattr(model.config, "initializer_range", None) or 0.02
    for index, name in enumerate(sorted(names)):
        owner = model.get_submodule(name.rpartition(".")[0])
        parameter = model.get_parameter(name)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        if parameter.dim() > 1:
            value = torch.randn(parameter.shape, generator=generator) * spread
        elif name.endswith("bias"):
            value = torch.zeros(parameter.shape)
        else:
            value = torch.ones(parameter.shape)
        if parameter.dtype != torch.float32:
            owner.register_forward_pre_hook(lambda _module, args: tuple(_to_float(a) for a in args))
        parameter.data = value.to(parameter.device)


def _to_float(value: Any) -> Any:
    return value.float() if getattr(value, "is_floating_point", lambda: False)() else value
