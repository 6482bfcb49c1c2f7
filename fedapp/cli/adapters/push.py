"""``fedapp push``: an exported or merged folder to the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TextIO

from fedapp.cli.adapters.card import CARD_FILE, PEFT, library_of
from fedapp.core.errors import one_line
from fedapp.core.files import OFFLINE_VARIABLE, read_json

_OFFLINE = (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")


def push(folder: Path, repository: str, out: TextIO, *, dry_run: bool = False, private: bool = False) -> None:
    """Upload a folder that ``fedapp export`` or ``fedapp merge`` made.

    The base model that peft's config names is this machine's path of it where the run had no hub id; what is
    uploaded names the card's ``base_model``.

    Args:
        folder: What to upload.
        repository: ``user/name`` on the hub; made if it is not there.
        out: Where it is told what goes up.
        dry_run: Tell it and upload nothing; needs no network and no token.
        private: Whether a new repository is private.

    Raises:
        ValueError: If the folder is no export, the repository's name cannot be one, or the hub cannot be
            reached or refuses.
    """
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ValueError(f"{repository!r} is no repository of the hub: {one_line(error)}") from None
    if "/" not in repository:
        raise ValueError(f"{repository!r} must name user and repository, as user/name")
    files = _files(folder)
    config = _config_to_upload(folder)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        out.write(f"{path.stat().st_size:>13,}  {path.relative_to(folder)}\n")
    verb = "would be" if dry_run else "are"
    kind = "private" if private else "public"
    out.write(f"{len(files)} files, {total:,} bytes, {verb} uploaded to {repository} ({kind} if it is new)\n")
    out.flush()
    if not dry_run:
        _upload(folder, repository, config, private)
        out.write(f"uploaded: https://huggingface.co/{repository}\n")


def _files(folder: Path) -> list[Path]:
    if not (folder / CARD_FILE).is_file() or (folder / "adapter.json").is_file():
        raise ValueError(
            f"{folder} is no folder that fedapp export or fedapp merge made: it has no {CARD_FILE}; "
            f"make one first: fedapp export {folder} FOLDER"
        )
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _config_to_upload(folder: Path) -> bytes | None:
    """The config of peft with the base's name on the hub in the place of a path; None: as it stands.

    Raises:
        ValueError: If no name is known.
    """
    if library_of(folder) != PEFT:
        return None
    from fedapp.adapters.lora.export import config_with_base

    named = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    if named and not Path(named).is_absolute():
        return None
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    found = re.search(r"^base_model: (\S+)$", card, re.MULTILINE)
    if not found:
        raise ValueError(
            f"{folder / 'adapter_config.json'} names the base model by a path of this machine: say its name "
            f"on the hub as base_model in the head of {folder / CARD_FILE}"
        )
    return config_with_base(folder, found[1])


def _upload(folder: Path, repository: str, config: bytes | None, private: bool) -> None:
    import httpx
    from huggingface_hub import HfApi

    asked = next((name for name in _OFFLINE if os.environ.get(name, "0") not in ("", "0")), None)
    if asked:
        raise ValueError(f"nothing was uploaded: {asked} says that this machine is offline; try --dry-run")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        left = ["adapter_config.json"] if config else None
        api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=left)
        if config:
            api.upload_file(path_or_fileobj=config, path_in_repo="adapter_config.json", repo_id=repository)
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ValueError(f"nothing, or not all, was uploaded to {repository}: {one_line(error)}") from None
