"""LoRA-SB: a small square matrix is trained between two frozen ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedapp.adapters.lora.export import write_lora
from fedapp.adapters.lora.narrow import narrow_linear
from fedapp.adapters.lora.targets import Target, linear_targets, require_rank, require_targets
from fedapp.adapters.lora.updates import LinearUpdates
from fedapp.core.checks import require_choice, require_int, require_number
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Example, Shapes
from fedapp.models.base import Base

_EXACT = 1024  # ours: up to this width a full SVD is quick enough
_OVERSAMPLING, _POWER_STEPS = 16, 10  # of the randomised one; steps as in the reference code


@dataclass(frozen=True)
class LoraSb:
    """Adds B R A to linear layers; only R [rank, rank] is trained.

    Args:
        rank: Width of R.
        target_modules: As LoRA's: names of the layers, ``all-linear``, or None for peft's choice.
        init: Where B and A come from. ``svd_gradient``: singular vectors of the first step of full
            fine-tuning, which the method's first exchange has to bring (LoRA-SB). ``svd_weight``: the
            leading singular vectors of the frozen weight, B scaled by its singular values (LoRA-XS).
            ``orthogonal``: random orthonormal ones (ours). The last two need no exchange and R
            starts at zero; they are the same on every client.
        init_examples: Examples of one client that ``svd_gradient`` looks at.
        dropout: On the input of an update, in training only.

    Source: LoRA-SB, https://arxiv.org/abs/2411.19557, and its code (CERT-Lab/lora-sb): the step is
    -sign of the gradient summed over some examples, B and A are its leading singular vectors, the
    update has no further scale, 170 examples. LoRA-XS: https://arxiv.org/abs/2405.17604.
    """

    rank: int = 24
    target_modules: Sequence[str] | str | None = "all-linear"
    init: str = "svd_gradient"
    init_examples: int = 170
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_int("rank", self.rank, at_least=1)
        require_targets(self.target_modules)
        require_choice("init", self.init, ("svd_gradient", "svd_weight", "orthogonal"))
        require_int("init_examples", self.init_examples, at_least=1)
        require_number("dropout", self.dropout, "[0, 1)")

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> LoraSbAdapted:
        """Add the updates to a base model; they are zero.

        Raises:
            ValueError: If no layer has a target's name, the rank is beyond a layer's width, or the
                model carries an adapter already.
        """
        targets = linear_targets(base, self.target_modules)
        require_rank(self.rank, targets)
        return LoraSbAdapted(self, base, train, targets, seed=seed)


class LoraSbAdapted(LinearUpdates):
    """A base model with LoRA-SB; names are ``layer.3.self_attn.q_proj.sb_R``, ``….sb_B``, ``….sb_A``.

    With ``svd_gradient`` the updates are missing until B and A are loaded: until then only
    ``estimate`` and ``disabled`` work.
    """

    def __init__(
        self, adapter: LoraSb, base: Base, train: TrainConfig, targets: dict[str, Target], *, seed: int
    ) -> None:
        self.adapter = adapter
        rank, device = adapter.rank, base.device
        generator = torch.Generator().manual_seed(seed)
        trained, frozen = {}, {}
        for name, target in targets.items():
            trained[f"{name}.sb_R"] = torch.zeros(rank, rank, device=device)
            left, right = _subspace(adapter.init, rank, target, generator, device)
            frozen[f"{name}.sb_B"], frozen[f"{name}.sb_A"] = left.to(device), right.to(device)
        super().__init__("lora_sb", base, train, targets, trained, frozen, adapter.dropout)

    def update(self, target: str, inputs: Tensor, output: Tensor) -> Tensor | None:
        """W x + B R A x, from right to left: no [size_out, size_in] matrix is ever formed.

        Raises:
            ClientFailure: If no subspace has been agreed on.
        """
        if self._missing(target):
            raise ClientFailure(
                "adapter.init='svd_gradient' needs a method whose clients first agree on the "
                "subspace, such as fed_sb; with this method take svd_weight or orthogonal"
            )
        low = narrow_linear(self.dropout(inputs), self.frozen[f"{target}.sb_A"])
        low = narrow_linear(low, self.trained[f"{target}.sb_R"])
        return output + narrow_linear(low, self.frozen[f"{target}.sb_B"])

    def frozen_shapes(self) -> Shapes:
        """Shapes of B and A where the clients have to agree on them; they know the others."""
        return super().frozen_shapes() if self.adapter.init == "svd_gradient" else {}

    def estimate(self, examples: Sequence[Example], rng: np.random.Generator) -> Arrays:
        """What this client's data say about the subspace; empty where it needs no data.

        Args:
            examples: The client's training set; at most ``init_examples`` of them are looked at.
            rng: Chooses them.

        Returns:
            For every target ``sb_B`` [size_out, rank] and ``sb_A`` [rank, size_in] whose product is the
            best approximation of that rank to -sign(gradient); ``sb_A`` has orthonormal rows.

        Raises:
            ClientFailure: If there are no examples or the gradient is not finite.
        """
        if self.adapter.init != "svd_gradient":
            return {}
        if not examples:
            raise ClientFailure("the client has no training examples")
        chosen = rng.permutation(len(examples))[: self.adapter.init_examples]
        found: Arrays = {}
        for name, gradient in self._gradients([examples[index] for index in chosen]).items():
            if not torch.isfinite(gradient).all():
                raise ClientFailure(f"the first gradient of {name} is not finite: check the data")
            left, values, right = _leading(-gradient.sign(), self.adapter.rank)
            found[f"{name}.sb_B"] = (left * values).cpu().numpy()
            found[f"{name}.sb_A"] = right.cpu().numpy()
        return found

    def export(self, folder: Path) -> None:
        """Write what ``peft.PeftModel.from_pretrained(model, folder)`` opens, and adapter.safetensors.

        The update is that of a plain LoRA with the factors B R and A, without any loss.
        """
        from safetensors.numpy import save_file

        factors = {}
        for name, target in self.targets.items():
            left = self.frozen[f"{name}.sb_B"] @ self.trained[f"{name}.sb_R"]
            factors[target.path] = (left, self.frozen[f"{name}.sb_A"])
        write_lora(self.base, factors, self.head.tensors, Path(folder))
        save_file(self.parameters(), Path(folder) / "adapter.safetensors")

    def _missing(self, target: str) -> bool:
        needed = {f"{target}.sb_B", f"{target}.sb_A"}
        return self.adapter.init == "svd_gradient" and not needed <= self.loaded

    def _gradients(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Gradient of the base alone by the targets' weights, [size_out, size_in], summed over batches."""
        trainer, size = self.trainer, self.trainer.config.batch_size
        rows = trainer.encoder.examples(examples)
        weights = [target.module.get_parameter("weight") for target in self.targets.values()]
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        with self.disabled(), _requiring_grad(weights):
            for start in range(0, len(rows), size):
                losses, count = trainer.losses(trainer.encoder.batch(rows[start : start + size]))
                given = torch.autograd.grad(losses.sum() / count, weights, allow_unused=True)
                for total, gradient in zip(sums, given, strict=True):
                    if gradient is not None:
                        total += gradient
        named = zip(self.targets.items(), sums, strict=True)
        return {name: target.matrix(total) for (name, target), total in named}


@contextmanager
def _requiring_grad(weights: Sequence[Tensor]) -> Iterator[None]:
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _subspace(
    init: str, rank: int, target: Target, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """B [size_out, rank] and A [rank, size_in] that need no data; zeros where data decide."""
    if init == "svd_gradient" or device.type == "meta":
        shapes = (target.size_out, rank), (rank, target.size_in)
        return torch.zeros(shapes[0], device=device), torch.zeros(shapes[1], device=device)
    if init == "svd_weight":
        weight = target.matrix(target.module.get_parameter("weight").detach()).float()
        left, values, right = _leading(weight, rank)
        return left * values, right
    draws = [torch.randn(size, rank, generator=generator) for size in (target.size_out, target.size_in)]
    left, right = (_oriented(torch.linalg.qr(draw)) for draw in draws)
    return left, right.T.contiguous()


def _oriented(qr: tuple[Tensor, Tensor]) -> Tensor:
    """The Q of a QR decomposition, with the signs that make R's diagonal positive: Q is unique then."""
    return qr[0] * torch.where(qr[1].diagonal() < 0, -1.0, 1.0)


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular triplets of an fp32 matrix: [m, rank], [rank], [rank, n].

    The largest entry of every left vector is positive, so that equal matrices give equal vectors.
    """
    if min(matrix.shape) <= _EXACT:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        devices = [matrix.device] if matrix.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            width = min(rank + _OVERSAMPLING, *matrix.shape)
            left, values, back = torch.svd_lowrank(matrix, q=width, niter=_POWER_STEPS)
            right = back.T
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    largest = left.gather(0, left.abs().argmax(0, keepdim=True)).squeeze(0)
    sign = torch.where(largest < 0, -1.0, 1.0)
    return left * sign, values, right * sign.unsqueeze(1)
