"""From a path or hub id to a transformers model in memory: place, number format, quantisation.

With a quantisation, bitsandbytes holds the backbone's linear layers in 8 or 4 bits; they compute in
the base's dtype (8 bits: in fp16). What lies outside the backbone, and what is trained, is not
touched. The model's fingerprint is then that of the quantised weights: the same wherever they are
rounded alike, which one kind of device does and two need not.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedapp.core.checks import require_choice, show_value
from fedapp.models.checkpoint import (
    quiet_transformers,
    read_config,
    read_tokenizer,
    reason_in,
    require_readable,
    require_supported,
    require_tokenizer,
)
from fedapp.models.files import cache_dir, gguf_files, resolve_path
from fedapp.models.gguf import dequantised
from fedapp.models.weights import require_whole

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    # NF4 is QLoRA's format, https://arxiv.org/abs/2305.14314.
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


def read_model(
    path: str, head: str, labels: tuple[str, ...], dtype: str, place: str, seed: int, options: dict[str, Any]
) -> tuple[Any, Any, Sequence[str]]:
    """Load a model with its tokenizer; the arguments are those of ``fedapp.models.base.load_base``.

    ``place`` is a torch device; ``options`` holds ``attn_implementation``, ``quantization`` and
    ``revision``, None where not set.

    Returns:
        The model, its tokenizer, and the names of the parameters that the checkpoint lacks.

    Raises:
        ValueError: If it cannot be loaded.
    """
    import torch

    given = {name: value for name, value in options.items() if value is not None}
    quantization = given.pop("quantization", None)
    if "attn_implementation" in given:  # any other name is a kernel to fetch, and code to run
        require_choice("attn_implementation", given["attn_implementation"], ATTENTION)
    revision = {"revision": given["revision"]} if "revision" in given else {}
    source, _, tokenizer = open_checkpoint(path, head, revision)
    with quiet_transformers():
        auto, extra = _kind(head, labels)
        try:
            if quantization is not None:
                extra |= _quantized(auto, source, quantization, dtype, place, revision)
            # Drawing what the checkpoint lacks must not disturb the caller's random numbers.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model, info = auto.from_pretrained(
                    source,
                    dtype=getattr(torch, dtype),
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # looked at below, by name
                    trust_remote_code=False,
                    use_safetensors=True,
                    **given,
                    **extra,
                )
        except Exception as error:
            raise ValueError(_reason(error, path, auto.__name__, given)) from error
    require_whole(model, info, head, path)
    _keep_differentiable(model)
    return model, tokenizer, sorted(info["missing_keys"])


def open_checkpoint(path: str, head: str, revision: dict[str, str]) -> tuple[str, Any, Any]:
    """Look at all of a checkpoint but its weights.

    Args:
        path: As ``model.path``.
        head: ``lm`` or ``classification``.
        revision: ``{"revision": …}`` of a hub model, or empty.

    Returns:
        Folder or hub id, the config, the tokenizer.

    Raises:
        ValueError: If a file is damaged, the kind of model is not supported, or the tokenizer does not
            fit it.
    """
    source = find_checkpoint(path)
    require_readable(source, path)
    config = read_config(source, path, revision)
    require_supported(config, head, path)
    tokenizer = read_tokenizer(source, path, revision)
    require_tokenizer(tokenizer, config, path)
    return source, config, tokenizer


def find_checkpoint(path: str) -> str:
    """The folder that a path stands for, or the hub id that it is; a GGUF file's is made if need be.

    Raises:
        ValueError: As ``fedapp.models.files.resolve_path`` and ``fedapp.models.gguf.dequantised``.
    """
    parts = gguf_files(path)
    return str(dequantised(parts, cache_dir(), path)) if parts else resolve_path(path)


def _kind(head: str, labels: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Transformers' class for a head, and what its ``from_pretrained`` must be told."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if head == "lm":
        return AutoModelForCausalLM, {}
    return AutoModelForSequenceClassification, {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def resolve_device(device: str) -> str:
    """The torch device that a setting means.

    Raises:
        ValueError: If this machine has none such.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: no GPU is visible here; use cpu or auto")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        known = "auto, cpu, cuda or cuda:<a GPU of this machine>"
        raise ValueError(f"device={show_value(device)} must be one of: {known}") from None
    return device


class _SettingError(ValueError):
    """Its text names the setting already."""


def _reason(error: Exception, path: str, kind: str, given: dict[str, Any]) -> str:
    if isinstance(error, _SettingError):
        return str(error)
    text = reason_in(error)
    attention = given.get("attn_implementation")
    if attention is not None and any(word in text.lower() for word in ("attn", "attention")):
        return (
            f"attn_implementation={attention!r} cannot be used with {path!r} here: "
            f"{text}; null lets transformers choose"
        )
    where = "" if Path(path).is_dir() or ":" in path else f" is no folder here ({Path(path).absolute()}) and"
    return f"path={path!r}{where} cannot be loaded as {kind}: {text}"


def _quantized(
    auto: Any, source: str, quantization: str, dtype: str, place: str, revision: dict[str, str]
) -> dict[str, Any]:
    """What ``from_pretrained`` must be told to quantise the backbone, and nothing outside it."""
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig

    setting = f"quantization={quantization!r}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise _SettingError(f"{setting} needs bitsandbytes: pip install 'fedapp[quant]', or set it to null")
    with torch.device("meta"):
        shape = auto.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False, **revision))
    outside = [name for name, _ in shape.named_children() if name != shape.base_model_prefix]
    options = dict(QUANTIZATIONS[quantization])
    if quantization == "4bit":
        options["bnb_4bit_compute_dtype"] = getattr(torch, dtype)
    try:
        from bitsandbytes import supported_torch_devices
    except Exception as error:  # its native part cannot be loaded here
        raise _SettingError(f"{setting}: bitsandbytes cannot be used here: {error}") from None
    if torch.device(place).type not in supported_torch_devices:
        raise _SettingError(f"{setting}: bitsandbytes cannot work on device={place!r}")
    # Each 8-bit product would remark that it casts its input to fp16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    settings = BitsAndBytesConfig(**options, llm_int8_skip_modules=outside)
    return {"quantization_config": settings, "device_map": {"": place}}


def _keep_differentiable(model: Any) -> None:
    """Stop 4-bit layers from changing their weights, on a CPU, into a form that lets no gradient through.

    They do so in the first pass in eval mode that needs no gradient; a frozen base is always in it.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def count_gpus() -> int:
    """GPUs that torch sees here."""
    import torch

    return int(torch.cuda.device_count())


def describe_gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of each GPU that torch sees here."""
    import torch

    found = [torch.cuda.get_device_properties(number) for number in range(count_gpus())]
    return [(str(one.name), int(one.total_memory)) for one in found]
