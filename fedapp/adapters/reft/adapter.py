"""Representation fine-tuning: interventions on the hidden states of a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedapp.adapters.base import HookedModel
from fedapp.adapters.reft.hooks import BlockHooks
from fedapp.adapters.reft.interventions import FORMS, PROJECTIONS, Form, Weights, draw, polar, tangent
from fedapp.adapters.reft.positions import Positions
from fedapp.core.checks import require_bool, require_choice, require_int, require_number
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays
from fedapp.models.base import Base
from fedapp.models.structure import block_list, hidden_size
from fedapp.training.tokens import Batch
from fedapp.training.trainer import Trainer


@dataclass(frozen=True)
class Reft:
    """Adds an intervention after chosen blocks, on the first and last tokens of the prompt.

    Args:
        intervention: loreft, direft, noreft, consreft, lobireft, or direct (pyreft's DireftIntervention).
        rank: Dimensions of the edited subspace.
        layers: ``all`` or block numbers from 0.
        positions: ``f4+l4``: the first and the last four tokens of the prompt.
        tied: One intervention per layer for all positions, instead of one for the first tokens
            and one for the last.
        dropout: On the edited hidden states, in training only.
        r_projection: How a loaded R (an average, or one in low precision) becomes orthonormal
            again: ``polar`` (the nearest one), ``qr``, or ``none`` (taken as it is, as pyreft does;
            training then keeps the singular values that came with it).
        act_fn: Activation of the source W h + b by transformers' name; None is linear.

    Source: ReFT, https://arxiv.org/abs/2404.03592; the class of each intervention: pyreft 0.1.0.
    """

    intervention: str = "loreft"
    rank: int = 8
    layers: str | Sequence[int] = "all"
    positions: str = "f4+l4"
    tied: bool = False
    dropout: float = 0.0
    r_projection: str = "polar"
    act_fn: str | None = None

    def __post_init__(self) -> None:
        require_choice("intervention", self.intervention, FORMS)
        require_int("rank", self.rank, at_least=1)
        require_bool("tied", self.tied)
        require_number("dropout", self.dropout, "[0, 1)")
        require_choice("r_projection", self.r_projection, (*PROJECTIONS, "none"))
        if self.act_fn is not None and not FORMS[self.intervention].learns_weight:
            raise ValueError(f"act_fn={self.act_fn!r} must be null for {self.intervention}: it has no W")
        layers = self.layers
        listed = isinstance(layers, Sequence) and bool(layers) and all(type(n) is int for n in layers)
        if layers != "all" and not listed:
            raise ValueError(f"layers={layers!r} must be 'all' or a list of block numbers")
        Positions.parse(self.positions)

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> ReftAdapted:
        """Add the interventions to a base model.

        Raises:
            ValueError: If rank or layers do not fit the model, or it carries an adapter already.
        """
        width = hidden_size(base.model)
        if self.rank > width:
            raise ValueError(f"adapter.rank={self.rank} must be within 1 and the model's hidden size {width}")
        return ReftAdapted(self, base, train, seed=seed, layers=self._layers(len(block_list(base.model)[1])))

    def _layers(self, count: int) -> list[int]:
        if isinstance(self.layers, str):
            return list(range(count))
        layers = sorted(self.layers)
        if layers[0] < 0 or layers[-1] >= count or len(set(layers)) != len(layers):
            raise ValueError(
                f"adapter.layers={list(self.layers)} must be different block numbers from 0 to {count - 1}"
            )
        return layers


class ReftAdapted(HookedModel):
    """A base model with interventions; implements ``fedapp.core.model.AdaptedModel``.

    Interventions act while the prompt is read, not on what is generated after it.

    The parameters of all layers lie in three tensors, the groups of a layer side by side
    (k = groups * rank), so that optimiser and projection are a handful of operations:
    rotate [layers, hidden, k], weight [layers, k, hidden], bias [layers, k].
    """

    def __init__(
        self, adapter: Reft, base: Base, train: TrainConfig, *, seed: int, layers: list[int]
    ) -> None:
        self.adapter, self.base, self.layers = adapter, base, layers
        self.form: Form = FORMS[adapter.intervention]
        self.positions = Positions.parse(adapter.positions)
        self.groups = self.positions.groups(adapter.tied)
        act = _activation(adapter.act_fn)
        self.rotate, self.weight, self.bias = (value.requires_grad_() for value in self._draw(seed))
        self._scale: Tensor | None = None  # of an R that was loaded as it is; None: orthonormal
        self._dropout_switch = _Switch()
        learned = [self.weight] if self.form.learns_weight else []
        projected = [self.rotate] if self.form.orthonormal else []
        free = [] if self.form.orthonormal else [self.rotate]
        # Checked before anything on the base changes, so that a bad setting leaves it as it was.
        trainer = Trainer(
            base,
            train,
            decayed=[*free, *learned, self.bias],
            fixed=projected,
            scope=self.armed,
            before_step=self._before_step,
            after_step=self._after_step,
        )
        super().__init__(adapter.intervention, base, trainer)
        self.hold(self._views(), toggled=[self._dropout_switch])
        self._hooks = BlockHooks(
            base.model, layers, self.positions, len(self.groups), adapter.rank, self.form, act
        )
        self.hooks.append(self._hooks)

    def load(self, parameters: Arrays) -> None:
        """Overwrite the named parameters; R is put back among the orthonormal matrices.

        Args:
            parameters: By name: rotate [hidden, rank], weight [rank, hidden], bias [rank], ``head.*``.

        Raises:
            ValueError: If a name is unknown, a shape differs or a value is not finite.
        """
        super().load(parameters)
        if self.form.orthonormal and any(name.endswith(".rotate") for name in parameters):
            with torch.no_grad():
                self._settle()

    def reset(self) -> None:
        """Go back to the seed's values."""
        super().reset()
        self._scale = None

    def export(self, folder: Path) -> None:
        """Write a folder that ``pyreft.ReftModel.load(folder, model)`` opens, and adapter.safetensors."""
        from fedapp.adapters.reft.export import write

        write(self, Path(folder))

    def armed(self, batch: Batch) -> AbstractContextManager[None]:
        """Let the interventions act on this batch inside the ``with`` block."""
        if not self.enabled:
            return nullcontext()
        weights: Sequence[Tensor | None] = [None] * len(self.layers)
        if self.form.learns_weight:
            weights = self.weight.unbind(0)
        parts = zip(self.rotate.unbind(0), weights, self.bias.unbind(0), strict=True)
        dropout = self.adapter.dropout if self._dropout_switch.training else 0.0
        return self._hooks.armed(batch, [Weights(*part) for part in parts], dropout)

    def _draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        width = hidden_size(self.base.model)
        device = torch.device(self.base.device)
        if device.type == "meta":  # shapes are all that is wanted, and a QR has its price at 405 B
            count, columns = len(self.layers), len(self.groups) * self.adapter.rank
            rows = columns if self.form.learns_weight else 0
            shapes = ((count, width, columns), (count, rows, width), (count, columns))
            rotate, weight, bias = (torch.empty(shape, device=device) for shape in shapes)
            return rotate, weight, bias
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            [draw(self.form, width, self.adapter.rank, generator) for _ in self.groups] for _ in self.layers
        ]
        rotate = torch.stack([torch.cat([one[0] for one in layer], 1) for layer in drawn])
        weight = torch.stack([torch.cat([one[1] for one in layer], 0) for layer in drawn])
        bias = torch.stack([torch.cat([one[2] for one in layer], 0) for layer in drawn])
        return rotate.to(device), weight.to(device), bias.to(device)

    def _views(self) -> dict[str, Tensor]:
        """Every parameter by its stable name, as views of the stacked tensors."""
        views: dict[str, Tensor] = {}
        rank = self.adapter.rank
        rotate, weight, bias = (value.detach() for value in (self.rotate, self.weight, self.bias))
        for slot, layer in enumerate(self.layers):
            for index, group in enumerate(self.groups):
                columns = slice(index * rank, (index + 1) * rank)
                name = f"layer.{layer}.{group}"
                views[f"{name}.rotate"] = rotate[slot][:, columns]
                if self.form.learns_weight:
                    views[f"{name}.weight"] = weight[slot][columns]
                views[f"{name}.bias"] = bias[slot][columns]
        return views

    def _split(self, stacked: Tensor) -> Tensor:
        """[layers, hidden, k] -> [layers, groups, hidden, rank], a view."""
        layers, width, _ = stacked.shape
        return stacked.view(layers, width, len(self.groups), self.adapter.rank).transpose(1, 2)

    def _settle(self) -> None:
        """After a load: project R, or remember the singular values that it came with."""
        rotate = self._split(self.rotate.data)
        gram = rotate.mT @ rotate
        eye = torch.eye(self.adapter.rank, device=gram.device)
        if float((gram - eye).abs().max()) < 2e-6:
            self._scale = None  # already orthonormal: its bits stay, so load(parameters()) changes nothing
        elif self.adapter.r_projection in PROJECTIONS:
            rotate.copy_(PROJECTIONS[self.adapter.r_projection](rotate.double()))
            self._scale = None
        else:
            values, vectors = torch.linalg.eigh(gram)
            self._scale = (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT

    def _before_step(self) -> None:
        if self.form.orthonormal and self._scale is None and self.rotate.grad is not None:
            grad = self._split(self.rotate.grad)
            grad.copy_(tangent(self._split(self.rotate.data), grad))

    def _after_step(self) -> None:
        if not self.form.orthonormal:
            return
        rotate = self._split(self.rotate.data)
        projected = PROJECTIONS.get(self.adapter.r_projection, polar)(rotate)
        rotate.copy_(projected if self._scale is None else projected @ self._scale)


class _Switch(torch.nn.Module):
    """Carries nothing but the training flag that the trainer sets for a round."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()


def _activation(name: str | None) -> Any:
    if name is None or name == "linear":
        return None
    from transformers.activations import ACT2FN

    if not isinstance(name, str) or name not in ACT2FN:
        raise ValueError(f"adapter.act_fn={name!r} must be one of transformers' activations, such as 'relu'")
    return ACT2FN[name]
