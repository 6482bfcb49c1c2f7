"""Frozen base models: found, loaded and fingerprinted once per process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedapp.model_files import resolve_path
from fedapp.model_parts import pool_by_mean
from fedapp.settings import require_choice, shown

if TYPE_CHECKING:
    from torch import nn

_HEADS = ("lm", "classification")
_DTYPES = ("float32", "bfloat16", "float16")
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
        fingerprint: Hex sha256 of the frozen weights and the architecture.
        device: Where the model lives.
        head_parameters: Names of the model's parameters that are trained with the adapter
            (the classification head); they are no part of the fingerprint.
        path: Folder or hub id that it was loaded from.
    """

    model: Any
    tokenizer: Any
    head: str
    labels: tuple[str, ...]
    fingerprint: str
    device: Any
    head_parameters: tuple[str, ...] = ()
    path: str = ""

    def set_num_threads(self, count: int) -> None:
        """Use this many CPU threads in this process; results depend on it in the last bits."""
        import torch

        torch.set_num_threads(count)


def load_base(
    path: str,
    *,
    head: str = "lm",
    labels: Sequence[str] = (),
    dtype: str = "float32",
    device: str = "auto",
    seed: int = 0,
    attn_implementation: str | None = None,
    revision: str | None = None,
    fingerprint: str | None = None,
    pooling: str | None = None,
) -> Base:
    """Load a base model; the same arguments give the same object within a process.

    Args:
        path: Local folder, hub id, ``asset:<name>`` (shipped with fedapp) or
            ``package:<module>[/subfolder]`` (a folder inside an installed package).
        head: ``lm`` or ``classification``.
        labels: Label names, for classification.
        dtype: Number format of the frozen weights: float32, bfloat16 or float16.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1`` …
        seed: Draws the classification head, the same on every client.
        attn_implementation: Passed to transformers; None lets it choose.
        revision: Commit or tag of a hub model.
        fingerprint: What the loaded weights must hash to; None accepts any.
        pooling: What a classification head reads: None, what the architecture gives it; ``mean``,
            the mean of the last hidden states (``fedapp.model_parts.pool_by_mean``).

    Raises:
        ValueError: If a setting is unknown, the model cannot be loaded, or its fingerprint differs.
    """
    names = tuple(labels) if head == "classification" else ()
    _check_settings(head, names, dtype, pooling)
    key = (path, head, names, dtype, device, seed, attn_implementation, revision, pooling)
    with _lock:
        if key not in _loaded:
            options = {"attn_implementation": attn_implementation, "revision": revision}
            loaded = _load(path, head, names, dtype, device, seed, options)
            if pooling:
                pool_by_mean(loaded.model)
            _loaded[key] = loaded
        base = _loaded[key]
    if fingerprint and fingerprint != base.fingerprint:
        raise ValueError(
            f"model.build.fingerprint={fingerprint!r} is expected, "
            f"but the weights of {path!r} hash to {base.fingerprint!r}"
        )
    return base


def _check_settings(head: str, labels: Sequence[str], dtype: str, pooling: str | None) -> None:
    require_choice("model.build.head", head, _HEADS)
    require_choice("model.build.dtype", dtype, _DTYPES)
    if head == "classification" and len(labels) < 2:
        raise ValueError(
            f"model.build.head='classification' needs at least 2 labels, the benchmark gives {len(labels)}"
        )
    if pooling not in (None, "mean") or (pooling and head != "classification"):
        raise ValueError(
            f"model.build.pooling={pooling!r} must be null, or 'mean' with model.build.head=classification"
        )


def _load(
    path: str, head: str, labels: tuple[str, ...], dtype: str, device: str, seed: int, options: dict[str, Any]
) -> Base:
    import torch

    source = resolve_path(path)
    place = _place(device)
    given = {name: value for name, value in options.items() if value is not None}
    with _quiet_transformers():
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

        auto: Any = AutoModelForCausalLM
        extra: dict[str, Any] = {}
        if head == "classification":
            auto = AutoModelForSequenceClassification
            extra = {
                "num_labels": len(labels),
                "id2label": dict(enumerate(labels)),
                "label2id": {name: index for index, name in enumerate(labels)},
            }
        try:
            revision = {"revision": given["revision"]} if "revision" in given else {}
            tokenizer = AutoTokenizer.from_pretrained(source, **revision)
            # Drawing what the checkpoint lacks must not disturb the caller's random numbers.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model, info = auto.from_pretrained(
                    source, dtype=getattr(torch, dtype), output_loading_info=True, **given, **extra
                )
        except (OSError, ValueError, ImportError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(
                f"model.build.path={path!r} cannot be loaded as {auto.__name__}: {reason}"
            ) from error
    return make_base(
        model,
        tokenizer,
        head=head,
        labels=labels,
        seed=seed,
        device=place,
        path=path,
        missing=info["missing_keys"],
    )


def _place(device: str) -> str:
    """The torch device that a setting means; ValueError if this machine has none such."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"model.build.device={device!r}: no GPU is visible here; use cpu or auto")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        known = "auto, cpu, cuda or cuda:<a GPU of this machine>"
        raise ValueError(f"model.build.device={shown(device)} must be one of: {known}") from None
    return device


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
) -> Base:
    """Freeze a transformers model that is already in memory and wrap it.

    Args:
        model: A causal LM or a sequence classifier.
        tokenizer: Its tokenizer; without a padding token it pads with its end-of-sequence token.
        head: As in ``load_base``.
        labels: As in ``load_base``.
        seed: As in ``load_base``.
        device: Where the model is to live.
        path: Where it came from, for messages and exports.
        missing: Parameter names that the checkpoint did not contain; with a classification head
            they count as part of the head and are drawn from the seed.
    """
    model = model.to(device).eval().requires_grad_(False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    names: tuple[str, ...] = ()
    if head == "classification":
        names = _head_names(model, missing)
        _draw_head(model, names, seed)
    return Base(
        model=model,
        tokenizer=tokenizer,
        head=head,
        labels=tuple(labels),
        fingerprint=fingerprint_of(model, skip=names),
        device=next(model.parameters()).device,
        head_parameters=names,
        path=path,
    )


def _head_names(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
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


def fingerprint_of(model: nn.Module, *, skip: Sequence[str] = ()) -> str:
    """Hash the frozen weights and the architecture.

    Args:
        model: Any transformers model; what is not in its state dict (rotary tables) does not count.
        skip: State-dict names that are left out (the trainable head).

    Returns:
        64 hex digits of sha256; equal weights in another dtype give another value.
    """
    import torch

    config: Any = model.config
    text = config.get_text_config()
    facts = (config.model_type, text.hidden_size, text.num_hidden_layers, text.vocab_size)
    digest = hashlib.sha256(repr(facts).encode())
    left_out = set(skip)
    for name, value in sorted(model.state_dict().items()):
        if name in left_out:
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide progress bars and the remark that a classification head is new."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
