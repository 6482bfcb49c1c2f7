"""LoRA's updates as products, and frozen updates merged into the weights that they belong to.

The base model is shared by all clients of a process, so a merged update U, fp32, is kept beside the
original weight W, whose bits come back when U is taken out. W + U is exact to fp32's rounding:

- Over an fp32 weight the model computes with W + U, summed in fp32.
- bf16, fp16 and quantised weights cannot hold the sum: small updates would vanish in their rounding.
  There W stays as it is and U acts beside it, ``W x + U x``, with ``U x`` in fp32 and the sum rounded to
  the type of the activations, as LoRA's own part is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from fedapp.core.types import Arrays

# Singular values below this share of the largest are the rounding of fp32 sums, no rank (ours).
_ROUNDING = 1e-6


class LowRankLayers:
    """The layers with an update B A, by stable name (``layer.3.self_attn.q_proj``).

    Args:
        model: The base model with its peft layers.
        layers: peft's layer for each name.
        adapter: peft's name of the adapter.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Any], adapter: str) -> None:
        self._model, self._layers, self._adapter = model, dict(layers), adapter
        self._originals: dict[str, Tensor] = {}  # of fp32 weights alone
        self._updates: dict[str, Tensor] = {}
        self._hooks: dict[str, RemovableHandle] = {}  # where an update acts beside its weight

    def factors(self) -> Arrays:
        """A ``[rank, in]`` and alpha / rank times B ``[out, rank]`` of every layer, in fp32."""
        found: Arrays = {}
        for name in self._layers:
            a, b, scale = self._pair(name)
            found[f"{name}.lora_A"] = a.detach().cpu().numpy().copy()
            found[f"{name}.lora_B"] = b.detach().cpu().numpy() * np.float32(scale)
        return found

    def load_factors(self, factors: Arrays) -> None:
        """Overwrite A, and B by the scaled B divided by alpha / rank.

        Raises:
            ValueError: If a layer is unknown, or a factor's shape is not the adapter's.
        """
        for name, given_a, given_b in self._checked(factors):
            a, b, scale = self._pair(name)
            if tuple(given_a.shape) != tuple(a.shape):
                raise ValueError(
                    f"the factors of {name!r} have rank {len(given_a)}, this adapter has {len(a)}"
                )
            with torch.no_grad():
                a.copy_(given_a)
                b.copy_(given_b / scale)

    def redraw(self, rng: np.random.Generator) -> None:
        """Start afresh: B = 0, A uniform within ± 1 / sqrt(in) as peft draws it."""
        for name in self._layers:
            a, b, _ = self._pair(name)
            bound = a.shape[1] ** -0.5
            drawn = rng.uniform(-bound, bound, size=tuple(a.shape)).astype(np.float32)
            with torch.no_grad():
                a.copy_(torch.from_numpy(drawn))
                b.zero_()

    def merge(self, factors: Arrays) -> None:
        """Add B A, of any rank, to the frozen weights.

        Raises:
            ValueError: If a layer is unknown, a size differs, or a weight is another layer's, too.
        """
        for name, a, b in self._checked(factors):
            update = b @ a
            self._set(name, self._updates[name] + update if name in self._updates else update)

    @property
    def merged(self) -> Arrays:
        """The merged updates, fp32 ``[out, in]`` under ``<layer>.merged``; empty if there are none."""
        return {f"{name}.merged": update.cpu().numpy().copy() for name, update in self._updates.items()}

    @property
    def merged_names(self) -> list[str]:
        """Layers with a merged update."""
        return list(self._updates)

    def merged_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape ``(out, in)`` of every update that could be merged."""
        sizes = {name: self._pair(name) for name in self._layers}
        return {f"{name}.merged": (b.shape[0], a.shape[1]) for name, (a, b, _) in sizes.items()}

    def set_merged(self, updates: Mapping[str, Tensor]) -> None:
        """Replace the merged updates of the named layers.

        Args:
            updates: fp32 ``[out, in]`` under ``<layer>.merged``, shapes as ``merged_shapes`` says.
        """
        for name, update in updates.items():
            self._set(name.removesuffix(".merged"), update)

    def clear(self) -> None:
        """Take all merged updates out: the weights have the bits they had."""
        with torch.no_grad():
            for name in self._updates:
                if name in self._originals:
                    self._weight(name).copy_(self._originals[name])
        for hook in self._hooks.values():
            hook.remove()
        self._updates, self._hooks = {}, {}

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While open, the base computes without the merged updates."""
        kept = self._updates
        self.clear()
        try:
            yield
        finally:
            for name, update in kept.items():
                self._set(name, update)

    def whole(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Merged update and B A of each layer as one product, of the rank that the sum has.

        Returns:
            A ``[k, in]`` and B ``[out, k]`` in fp32, no scale to be applied; k is at least 1.
        """
        found = {}
        for name in self._layers:
            a, b, scale = self._pair(name)
            total = scale * (b.detach().double() @ a.detach().double())
            if name in self._updates:
                total += self._updates[name].double()
            u, s, vt = torch.linalg.svd(total, full_matrices=False)
            rank = max(1, int((s > _ROUNDING * s[0]).sum()))
            found[name] = (vt[:rank].float().cpu(), (u[:, :rank] * s[:rank]).float().cpu())
        return found

    def _pair(self, name: str) -> tuple[Tensor, Tensor, float]:
        layer = self._layers[name]
        a, b = layer.lora_A[self._adapter].weight, layer.lora_B[self._adapter].weight
        return a, b, float(layer.scaling[self._adapter])

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = self._layers[name].get_base_layer().weight
        return weight

    def _set(self, name: str, update: Tensor) -> None:
        weight = self._weight(name)
        if name not in self._updates:
            self._require_own(name, weight)
        self._updates[name] = update = update.to(weight.device)
        if weight.dtype != torch.float32:
            if name not in self._hooks:
                layer = self._layers[name].get_base_layer()
                self._hooks[name] = layer.register_forward_hook(self._adding(name))
            return
        if name not in self._originals:
            self._originals[name] = weight.detach().clone()
        turned = update.T if self._layers[name].fan_in_fan_out else update
        with torch.no_grad():
            weight.copy_(self._originals[name] + turned)

    def _adding(self, name: str) -> Callable[..., Tensor]:
        """A forward hook that adds the layer's update, as it is at that time, to what the base gives."""

        def add(_layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            added = functional.linear(args[0].float(), self._updates[name])
            return (output.float() + added).to(output.dtype)

        return add

    def _require_own(self, name: str, weight: Tensor) -> None:
        """Refuse a weight that another layer computes with, too."""
        named = self._model.named_parameters(remove_duplicate=False)
        if sum(other is weight for _, other in named) > 1:
            raise ValueError(
                f"adapter.target_modules: the weight of {name} is tied to another layer's, an update "
                "merged into it would change both"
            )

    def _checked(self, factors: Arrays) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each layer's factors as tensors in its place; nothing is yielded before all are checked."""
        pairs = []
        for name in sorted({key.rpartition(".")[0] for key in factors}):
            keys = (f"{name}.lora_A", f"{name}.lora_B")
            if name not in self._layers or any(key not in factors for key in keys):
                known = ", ".join(sorted(self._layers)[:2])
                raise ValueError(f"no pair of factors for a layer of this adapter ({known} …): {name!r}")
            own_a, own_b, _ = self._pair(name)
            a, b = (torch.from_numpy(np.array(factors[key], np.float32)) for key in keys)
            fits = a.dim() == b.dim() == 2 and a.shape[0] == b.shape[1]
            if not fits or (b.shape[0], a.shape[1]) != (own_b.shape[0], own_a.shape[1]):
                raise ValueError(
                    f"the factors of {name!r} have shapes {list(a.shape)} and {list(b.shape)}, this adapter "
                    f"needs [rank, {own_a.shape[1]}] and [{own_b.shape[0]}, rank]"
                )
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise ValueError(f"the factors of {name!r} hold values that are not finite")
            pairs.append((name, a.to(own_a.device), b.to(own_b.device)))
        yield from pairs
