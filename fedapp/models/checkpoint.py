"""A base model's files before its weights are read: what would fail later, or go wrong without a word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedapp.core.errors import one_line
from fedapp.models.files import WEIGHTS_FILE

_POINTER = b"version https://git-lfs"
_READ = (".safetensors", ".json", ".model", ".txt")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZER_FILES = ("tokenizer.*", "vocab.*", "*.model", "*.tiktoken", "tekken.json")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars and the remark that a classification head is new."""
    from transformers.utils import logging as remarks

    level, bars = remarks.get_verbosity(), remarks.is_progress_bar_enabled()
    remarks.set_verbosity_error()
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        remarks.set_verbosity(level)
        if bars:
            remarks.enable_progress_bar()


def require_readable(source: str, path: str) -> None:
    """Refuse a folder whose files are damaged, or are no checkpoint.

    Args:
        source: The folder. A hub id passes: what is downloaded is checked by who loads it.
        path: What the setting ``model.path`` says, for messages.

    Raises:
        ValueError: In one line that names the file.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"path={path!r} holds an adapter of peft (adapter_config.json): merge it into its base model "
            "and save that, or name the base model"
        )
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ and file.is_file() and _begins(file, path).startswith(_POINTER):
            raise ValueError(
                f"path={path!r}: {file.name} is a Git-LFS pointer, not the file itself: fetch it with "
                "`git lfs pull`"
            )
    settings = folder / "generation_config.json"
    if settings.is_file():  # transformers passes over one that it cannot read
        try:
            json.loads(settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"path={path!r}: {settings.name} is no JSON: {one_line(error)}") from None
    for file in _weight_files(folder, path):
        _require_safetensors(file, path)


def _begins(file: Path, path: str) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_POINTER))
    except OSError as error:
        raise ValueError(f"path={path!r}: {file.name} cannot be read: {error.strerror}") from None


def _weight_files(folder: Path, path: str) -> list[Path]:
    index = folder / f"{WEIGHTS_FILE}.index.json"
    if (folder / WEIGHTS_FILE).is_file() or not index.is_file():
        if not (folder / WEIGHTS_FILE).is_file():
            raise ValueError(_no_weights(folder, path))
        return [folder / WEIGHTS_FILE]
    try:
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"path={path!r}: {index.name} is damaged: it has no weight_map") from None
    if lacking := [name for name in parts if not (folder / str(name)).is_file()]:
        raise ValueError(
            f"path={path!r} lacks {len(lacking)} of its {len(parts)} weight files, {lacking[0]} among them"
        )
    return [folder / name for name in parts]


def _no_weights(folder: Path, path: str) -> str:
    if not (folder / "config.json").is_file():
        return f"path={path!r} cannot be loaded: the folder has no config.json and no {WEIGHTS_FILE}"
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled:
        return (
            f"path={path!r} has pickled weights ({pickled[0]}), which can run code and are never opened: "
            f"save them as {WEIGHTS_FILE} (transformers' save_pretrained)"
        )
    return f"path={path!r} has no weights: {WEIGHTS_FILE} is missing"


def _require_safetensors(file: Path, path: str) -> None:
    """The header must be one, and the file as long as it says; values are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise ValueError(
            f"path={path!r}: {file.name} ({size:,} bytes) is cut off or damaged: {one_line(error)}"
        ) from None


def read_config(source: str, path: str, revision: dict[str, str]) -> Any:
    """A checkpoint's transformers config; code that comes with it is never run.

    Args:
        source: Folder or hub id.
        path: For messages.
        revision: ``{"revision": …}`` of a hub model, or empty.

    Raises:
        ValueError: If there is none, or transformers does not know such a model.
    """
    with quiet_transformers():
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(source, trust_remote_code=False, **revision)
        except Exception as error:
            raise ValueError(f"path={path!r} cannot be loaded: {reason_in(error)}") from None


def reason_in(error: Exception) -> str:
    """The first line of what a library says; nobody is told to run a stranger's code."""
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return (
            "it needs code of its own (auto_map), and code that comes with a model is never run; a model "
            "that transformers knows is needed"
        )
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def require_supported(config: Any, head: str, path: str) -> None:
    """Refuse a kind of model that nothing here is built for.

    Args:
        config: A transformers config.
        head: ``lm`` or ``classification``.
        path: For messages.

    Raises:
        ValueError: For an encoder-decoder, an encoder as a language model, a padding id that the
            embedding does not have.
    """
    from transformers.models.auto import modeling_auto as known

    kind = config.model_type
    if config.is_encoder_decoder:
        raise ValueError(
            f"path={path!r} is an encoder-decoder ({kind}), for which adapters and scoring are not built: "
            "take a decoder (Llama, GPT-2 …) or, with head=classification, an encoder (BERT, RoBERTa …)"
        )
    encoder = kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if head == "lm" and encoder and not config.to_dict().get("is_decoder"):
        raise ValueError(
            f"path={path!r} is an encoder ({kind}), which sees what it is to predict: set "
            "head=classification, or take a causal language model"
        )
    text = config.get_text_config()
    if text.pad_token_id is not None and not 0 <= text.pad_token_id < text.vocab_size:
        raise ValueError(
            f"path={path!r}: pad_token_id={text.pad_token_id} in config.json is outside the embedding, "
            f"whose {text.vocab_size} rows are numbered from 0"
        )


def read_tokenizer(source: str, path: str, revision: dict[str, str]) -> Any:
    """A checkpoint's tokenizer; arguments as for ``read_config``.

    Raises:
        ValueError: If there is none: transformers would make an empty one for most models.
    """
    absent = f"path={path!r} has no tokenizer: save the model's own into the folder (tokenizer.json)"
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **revision)
        except Exception as error:
            folder = Path(source)
            if folder.is_dir() and not any(any(folder.glob(name)) for name in _TOKENIZER_FILES):
                raise ValueError(absent) from None
            raise ValueError(f"path={path!r}: its tokenizer cannot be loaded: {reason_in(error)}") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(absent)
    return tokenizer


def require_tokenizer(tokenizer: Any, config: Any, path: str) -> None:
    """Refuse a tokenizer that does not fit its model.

    Raises:
        ValueError: If it cannot pad, or knows an id that the embedding has no row for.
    """
    if not (tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token):
        raise ValueError(
            f"path={path!r}: its tokenizer has no padding, end-of-sequence or unknown token, so rows of "
            "different length cannot be padded: set pad_token in tokenizer_config.json"
        )
    rows = config.get_text_config().vocab_size
    padding = tokenizer.pad_token_id
    if padding is not None and padding >= rows:
        raise ValueError(
            f"path={path!r}: the padding token {tokenizer.pad_token!r} has id {padding}, outside the "
            f"embedding of {rows} rows: resize the embedding, or pad with the end-of-sequence token"
        )
    word, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= rows:
        raise ValueError(
            f"path={path!r}: its tokenizer has ids up to {highest} ({word!r}), its embedding {rows} rows: "
            "they are not of the same model, or the embedding was not resized"
        )
