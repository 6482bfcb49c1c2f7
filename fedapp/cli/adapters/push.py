"""``fedapp push``: an exported or merged folder to the Hugging Face hub."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fedapp.cli.adapters.card import CARD_FILE, PEFT, library_of
from fedapp.core.errors import one_line
from fedapp.core.files import OFFLINE_VARIABLE, read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OFFLINE = (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")


def push(folder: Path, repository: str, out: TextIO, *, dry_run: bool = False, private: bool = False) -> None:
    """Upload a folder that ``fedapp export`` or ``fedapp merge`` made.

    The base model that peft's config names is this machine's path of it where the run had no hub id; what is
    uploaded names the card's ``base_model``. All files go up in one commit: a repository never holds half.

    Args:
        folder: What to upload.
        repository: ``user/name`` on the hub; made if it is not there.
        out: Where it is told what goes up.
        dry_run: Tell it and upload nothing; needs no network and no token.
        private: Whether a new repository is private; one that is there and public is refused.

    Raises:
        ValueError: If the folder is no export, the repository's name cannot be one, there is no token, or the
            hub cannot be reached or refuses.
    """
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ValueError(f"{repository!r} is no repository of the hub: {one_line(error)}") from None
    if "/" not in repository:
        raise ValueError(f"{repository!r} must name user and repository, as user/name")
    files = _files(folder)
    sizes = {name: _size(content) for name, content in files.items()}
    for name, size in sizes.items():
        out.write(f"{size:>13,}  {name}\n")
    verb = "would be" if dry_run else "are"
    kind = "private" if private else "public"
    total = sum(sizes.values())
    out.write(f"{len(files)} files, {total:,} bytes, {verb} uploaded to {repository} ({kind} if it is new)\n")
    out.flush()
    if not dry_run:
        api = _hub()
        _upload(api, repository, files, private)
        out.write(f"uploaded: {api.endpoint}/{repository}\n")


def _files(folder: Path) -> dict[str, Path | bytes]:
    """What goes up, by its name in the repository: hidden files (``.git``, ``.DS_Store``) do not."""
    if not (folder / CARD_FILE).is_file() or (folder / "adapter.json").is_file():
        raise ValueError(
            f"{folder} is no folder that fedapp export or fedapp merge made: it has no {CARD_FILE}; "
            f"make one first: fedapp export {folder} FOLDER"
        )
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    inside = {path.relative_to(folder).as_posix(): path for path in found}
    files: dict[str, Path | bytes] = {n: path for n, path in inside.items() if not re.search(r"(^|/)\.", n)}
    config = _config_to_upload(folder)
    return files if config is None else files | {"adapter_config.json": config}


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


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


def _hub() -> HfApi:
    """The hub, by the token of this machine.

    Raises:
        ValueError: If the machine is offline, or has no token.
    """
    from huggingface_hub import HfApi, get_token

    asked = next((name for name in _OFFLINE if os.environ.get(name, "0") not in ("", "0")), None)
    if asked:
        raise ValueError(f"nothing was uploaded: {asked} says that this machine is offline; try --dry-run")
    if get_token() is None:
        raise ValueError("nothing was uploaded: there is no token of the hub; hf auth login, or set HF_TOKEN")
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _upload(api: HfApi, repository: str, files: Mapping[str, Path | bytes], private: bool) -> None:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        is_public = private and api.model_info(repository).private is False
        if not is_public:
            api.create_commit(repository, operations, commit_message="Upload with fedapp push")
    except Exception as error:  # of huggingface_hub or hf_xet: what they may raise is not ours to list
        raise ValueError(f"the upload to {repository} failed: {_reason(error, api.endpoint)}") from None
    if is_public:
        raise ValueError(
            f"nothing was uploaded: {repository} is there and public, which --private does not change; "
            "make it private on the hub, or choose another name"
        )


def _reason(error: BaseException, endpoint: str) -> str:
    """One line on what the hub said, or why it was not reached, whatever was raised from that."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    while not isinstance(error, httpx.HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, httpx.TransportError):
        return f"the hub at {endpoint} cannot be reached: {one_line(error)}"
    if not isinstance(error, HfHubHTTPError):
        return one_line(error)
    status, said = error.response.status_code, one_line(error.server_message or "no text")
    advice = "; hf auth login, or HF_TOKEN, with a token that may write there" if status in (401, 403) else ""
    return f"the hub answered {status} to {error.response.url.path}: {said}{advice}"
