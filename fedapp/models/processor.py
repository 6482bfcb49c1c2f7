"""What ``auto`` means for a frozen base's number format and its attention: measured once on a machine.

On a processor that multiplies bfloat16 in hardware (Intel's AMX) a base in it is two to three times as
fast as in float32; on others it is slower. And in bfloat16 the backward pass of torch's fused attention
can take longer on a CPU than the plain one. Neither can be told by the processor's name, so both are
measured, and the result is kept beside other files of the cache: all processes of a machine choose alike,
however busy it is when they start.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedapp.core.files import write_atomically
from fedapp.models.files import cache_dir
from fedapp.models.loading import resolve_device

AUTO = "auto"
# By how much the other choice must be faster before it is taken; a tie stays with the exact one.
_MARGIN = 1.3
_REPEATS = 5


@dataclass(frozen=True)
class Processor:
    """Seconds of this machine's CPU for the same work, done in both ways.

    Attributes:
        name: The processor, and the version of torch that multiplied.
        float32, bfloat16: A product of a [128, 576] and a [576, 576] matrix.
        sdpa, eager: Attention of 4 rows of 64 tokens and 9 heads in bfloat16, forward and backward; None
            where bfloat16 is not taken.
    """

    name: str
    float32: float
    bfloat16: float
    sdpa: float | None = None
    eager: float | None = None

    @property
    def dtype(self) -> str:
        """The number format that ``dtype=auto`` takes on this CPU."""
        return "bfloat16" if self.float32 > _MARGIN * self.bfloat16 else "float32"

    @property
    def attention(self) -> str | None:
        """The attention that ``attn_implementation=auto`` takes on this CPU; None: transformers' choice."""
        if self.sdpa is None or self.eager is None:
            return None
        return "eager" if self.sdpa > _MARGIN * self.eager else "sdpa"


def choose(dtype: str, attention: str | None, place: str) -> tuple[str, str | None]:
    """What ``auto`` stands for; anything else stays as it is.

    Args:
        dtype: As ``model.dtype``.
        attention: As ``model.attn_implementation``.
        place: A torch device. A GPU takes bfloat16 where it has it, and transformers' own choice of
            attention; so does a CPU that computes in float32, where the two do not differ.
    """
    import torch

    on_cpu = torch.device(place).type == "cpu"
    if dtype == AUTO:
        if on_cpu:
            dtype = this_processor().dtype
        else:
            dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if attention == AUTO:
        attention = this_processor().attention if on_cpu and dtype == "bfloat16" else None
    return dtype, attention


@lru_cache(maxsize=1)
def this_processor() -> Processor:
    """Figures of this machine: read from the cache, or measured (a tenth of a second) and put there."""
    file = cache_dir() / "processor.json"
    name = _name()
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = Processor(**json.loads(file.read_text(encoding="utf-8"))[name])
        if kept.name == name:
            return kept
    found = measure(name)
    with suppress(OSError):  # without a cache each process measures for itself
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({name: asdict(found)}, indent=1))
    return found


def describe_choices(model: Mapping[str, Any]) -> dict[str, str | None]:
    """What ``auto`` stands for on this machine, by setting.

    Args:
        model: The node ``model`` of a config.

    Returns:
        Number format and attention (None: transformers' choice); nothing where neither setting is
        ``auto``, or this machine has no such device.
    """
    dtype, attention = model.get("dtype"), model.get("attn_implementation")
    if AUTO not in (dtype, attention):
        return {}
    with suppress(ValueError):
        found = choose(str(dtype), attention, resolve_device(str(model.get("device", "cpu"))))
        return dict(zip(("dtype", "attn_implementation"), found, strict=True))
    return {}


def processor_name() -> str:
    """As the system tells it; the architecture where it does not."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _name() -> str:
    import torch

    return f"{processor_name()}, torch {torch.__version__}"


def measure(name: str) -> Processor:
    """Do both pairs of works a few times, in turn, and take the medians; the second pair only in bfloat16."""
    import torch

    def product(kind: torch.dtype) -> Callable[[], object]:
        left, right = torch.ones(128, 576, dtype=kind), torch.ones(576, 576, dtype=kind)
        return lambda: left @ right

    products = Processor(name, *_medians(product(torch.float32), product(torch.bfloat16)))
    if products.dtype == "float32":
        return products

    query, key, value = (torch.ones(4, 9, 64, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    inputs = (query, key, value)

    def fused() -> object:
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return torch.autograd.grad(mixed.sum(), inputs)

    def plain() -> object:
        mixed = (query @ key.transpose(2, 3) / 8).float().softmax(-1).bfloat16() @ value
        return torch.autograd.grad(mixed.sum(), inputs)

    with torch.enable_grad():
        sdpa, eager = _medians(fused, plain)
    return replace(products, sdpa=sdpa, eager=eager)


def _medians(*works: Callable[[], object]) -> list[float]:
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(_REPEATS + 1):
        for taken, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            work()
            if turn:  # the first is slower: code and memory are fetched
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]
