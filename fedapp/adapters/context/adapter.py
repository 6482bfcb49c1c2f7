"""Context vectors: demonstrations read once into vectors that are injected at every layer.

Source: IFed-ICL (eqs 1, 2, 5, 6) for what is done, I2CL (https://arxiv.org/abs/2405.14660 and its
code) for how: where outputs are read, the initial values, the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedapp.adapters.base import HookedModel
from fedapp.adapters.context.injection import INJECTIONS, Injected, SiteHooks, prepare
from fedapp.adapters.context.reading import principal_components
from fedapp.adapters.context.sites import residual_sites
from fedapp.adapters.demonstrations import check_demonstration, write_demonstration
from fedapp.core.checks import is_number, require_choice, require_number, show_value
from fedapp.core.model import COEFFICIENTS, VECTORS
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Example
from fedapp.models.base import Base
from fedapp.models.structure import hidden_size
from fedapp.training.first_token import FirstTokenTrainer, require_language_model
from fedapp.training.tokens import Batch

FUSIONS = ("mean", "pca")


@dataclass(frozen=True)
class Context:
    """Steers a frozen language model by context vectors.

    Attributes:
        injection: ``linear``, ``add`` or ``balance`` (``fedapp.adapters.context.injection.prepare``).
        initial: First values of lambda and beta; of lambda alone for ``add``. Default: I2CL.
        noise: In calibration, as a share of a token's norm. Default: I2CL.
        fusion: How a client's demonstrations become one vector: their ``mean``, or ``pca``: the mean
            plus the unit first principal component of all layers together. Default: I2CL.
        demonstration: How an example is written as one; the vectors are read at its last token. The
            default is I2CL's, whose last token is the newline after the label.
    """

    injection: str = "linear"
    initial: Sequence[float] = (0.1, 1.0)
    noise: float = 1e-3
    fusion: str = "mean"
    demonstration: str = "{prompt} {target}\n"

    def __post_init__(self) -> None:
        require_choice("injection", self.injection, list(INJECTIONS))
        require_choice("fusion", self.fusion, FUSIONS)
        require_number("noise", self.noise, "[0, inf)")
        listed = isinstance(self.initial, Sequence) and not isinstance(self.initial, str)
        count = INJECTIONS[self.injection]
        if (
            not listed
            or not count <= len(self.initial) <= 2
            or not all(is_number(value) for value in self.initial)
        ):
            raise ValueError(
                f"initial={show_value(self.initial)} must be a list of {count} numbers, "
                f"lambda{' and beta' * (count - 1)}"
            )
        check_demonstration(self.demonstration)

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> ContextAdapted:
        """Hook a base model; nothing is drawn, so the seed plays no part.

        Raises:
            ValueError: If the base is no language model, or its blocks are not understood.
        """
        return ContextAdapted(self, base, train)


class ContextAdapted(HookedModel):
    """A base model with context vectors; implements ``fedapp.core.model.ContextModel``.

    Without vectors it answers as the base does. Calibration runs in fp32 coefficients over a base
    in any dtype; its loss, and ``loss``, is that of the answer's first token.
    """

    def __init__(self, adapter: Context, base: Base, train: TrainConfig) -> None:
        require_language_model(base, "adapter=context")
        sites = residual_sites(base.model)
        first = torch.tensor([float(v) for v in adapter.initial[: INJECTIONS[adapter.injection]]])
        self._coefficients = first.repeat(len(sites), 2, 1).to(base.device).requires_grad_(True)
        self._calibrator = _Calibrator(base, train, decayed=[self._coefficients], scope=self._scope)
        super().__init__("context", base, self._calibrator)
        self.adapter, self.labels = adapter, base.labels
        self.shape = (len(sites), 2, hidden_size(base.model))
        self.hold({COEFFICIENTS: self._coefficients}, {VECTORS: torch.zeros(self.shape, device=base.device)})
        self._hooks = SiteHooks(sites)
        self.hooks.append(self._hooks)

    def reset(self) -> None:
        """Initial coefficients, no vectors, a fresh optimiser."""
        super().reset()
        self._calibrator.resume({})

    def encode(self, examples: Sequence[Example]) -> np.ndarray:
        """Read examples as demonstrations, each on its own, in batches.

        Returns:
            Attention and MLP outputs at each demonstration's last token, fused, fp32,
            [num_layers, 2, hidden_size].

        Raises:
            ClientFailure: If there are no examples.
        """
        if not examples:
            raise ClientFailure("the client has no training examples to make demonstrations of")
        texts = [write_demonstration(self.adapter.demonstration, example) for example in examples]
        total = torch.zeros(self.shape, dtype=torch.float64, device=self.base.device)
        kept = []
        for read in self._read(texts):
            total += read.double().sum(0)
            if self.adapter.fusion == "pca":
                kept.append(read.cpu())
        mean = total.cpu() / len(texts)
        if kept and len(texts) > 1:
            mean = mean + principal_components(torch.cat(kept).double(), torch.finfo(kept[0].dtype).eps)
        return mean.float().numpy()

    def _read(self, texts: Sequence[str]) -> Iterator[Tensor]:
        """Outputs at the last tokens, batch by batch, [batch, num_layers, 2, hidden_size]."""
        trainer = self.trainer
        with torch.no_grad():
            for _, rows in trainer.batches(trainer.prompts(texts)):
                batch = trainer.encoder.batch(rows)
                last = torch.from_numpy(batch.prompt_lengths).to(batch.input_ids.device) - 1
                with self._hooks.reading(last) as read:
                    trainer.last_logits(batch.input_ids, batch.attention_mask, last + 1)
                    layers = range(self.shape[0])
                    yield torch.stack([torch.stack([read[n, 0], read[n, 1]], 1) for n in layers], 1)

    def moments(self) -> Arrays:
        """AdamW's moments after the last ``train``, by name; empty before any."""
        return self._calibrator.moments()

    def resume(self, moments: Arrays) -> None:
        """Start the next ``train`` from these moments; empty ones are a fresh optimiser's."""
        self._calibrator.resume(moments)

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Calibrate the coefficients for one round; see ``Trainer.train``.

        Raises:
            ClientFailure: If no vectors are loaded: there is nothing to calibrate.
        """
        if VECTORS not in self.loaded:
            raise ClientFailure("there are no context vectors to calibrate; they come from method=ifed_icl")
        return self.trainer.train(examples, rng)

    def export(self, folder: Path) -> None:
        """Write adapter.safetensors; no other library has a format for these."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.parameters(), folder / "adapter.safetensors")

    def injected(self) -> Injected | None:
        """What is added as things stand; None where the model answers as the base does."""
        if VECTORS not in self.loaded or not self.enabled:
            return None
        return prepare(self.adapter.injection, self._coefficients, self.frozen[VECTORS], self.adapter.noise)

    def _scope(self, _batch: Batch) -> AbstractContextManager[None]:
        return self._hooks.armed(self.injected())


class _Calibrator(FirstTokenTrainer):
    """Can go on with an optimiser's moments, which outlive the process as arrays."""

    _optimizer: torch.optim.Optimizer | None = None
    _resumed: Arrays = {}

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW, with the moments given to ``resume``."""
        self._optimizer = optimizer = super().optimizer()
        for index, value in enumerate(self._decayed if self._resumed else ()):
            optimizer.state[value] = {
                name.partition(".")[2]: torch.from_numpy(np.array(array)).to(value.device)
                for name, array in self._resumed.items()
                if name.partition(".")[0] == str(index)
            }
        return optimizer

    def moments(self) -> Arrays:
        """The optimiser's state, named by parameter and kind."""
        if self._optimizer is None:
            return {}
        return {
            f"{index}.{name}": tensor.detach().cpu().numpy().copy()
            for index, value in enumerate(self._decayed)
            for name, tensor in self._optimizer.state[value].items()
        }

    def resume(self, moments: Arrays) -> None:
        """Set what the next ``optimizer`` starts from."""
        self._resumed, self._optimizer = dict(moments), None
