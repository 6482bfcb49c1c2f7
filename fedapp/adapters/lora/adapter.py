"""Low-rank adaptation, by peft."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from fedapp.adapters.base import HookedModel
from fedapp.adapters.lora.export import saved_modules
from fedapp.adapters.lora.merge import LowRankLayers
from fedapp.adapters.lora.narrow import NarrowLinear
from fedapp.core.checks import require_bool, require_int, require_number, show_value
from fedapp.core.errors import one_line
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, Shapes
from fedapp.models.base import Base
from fedapp.models.structure import block_list
from fedapp.training.trainer import Trainer

_ADAPTER = "default"  # peft's name for the only adapter of a model


@dataclass(frozen=True)
class Lora:
    """Adds low-rank updates to linear layers.

    Args:
        rank: Rank of an update.
        alpha: The update is scaled by alpha / rank.
        dropout: On the input of an update, in training only.
        target_modules: Names of the layers, ``all-linear``, or None for peft's choice for the
            model's type (query and value projections for most).
        freeze_a: Keep every A at its drawn value and train (and share) B only.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: Sequence[str] | str | None = None
    freeze_a: bool = False

    def __post_init__(self) -> None:
        require_int("rank", self.rank, at_least=1)
        require_number("alpha", self.alpha, "(0, inf)")
        require_number("dropout", self.dropout, "[0, 1)")
        require_bool("freeze_a", self.freeze_a)
        names = self.target_modules
        listed = isinstance(names, Sequence) and bool(names) and all(isinstance(name, str) for name in names)
        if names is not None and not listed:
            raise ValueError(f"target_modules={names!r} must be null, all-linear or a list of layer names")

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> LoraAdapted:
        """Add the updates to a base model; B starts at zero, A is drawn from the seed.

        Raises:
            ValueError: If no layer has a target's name, or the model carries an adapter already.
        """
        return LoraAdapted(self, base, train, seed=seed)


class LoraAdapted(HookedModel):
    """A base model with LoRA; implements ``fedapp.core.model.LowRankModel``.

    Names are ``layer.3.self_attn.q_proj.lora_A`` whatever the model calls its blocks; an update
    that is merged into the frozen weights is ``layer.3.self_attn.q_proj.merged``.
    """

    def __init__(self, adapter: Lora, base: Base, train: TrainConfig, *, seed: int) -> None:
        super().__init__("lora", base, Trainer(base, train, decayed=[]))
        self.adapter = adapter
        self._blocks = block_list(base.model)[0]
        try:
            self._tuner = self._inject(seed)
        except ValueError as error:
            super().detach()
            reason = one_line(error)
            raise ValueError(
                f"adapter.target_modules={show_value(adapter.target_modules)}: {reason}"
            ) from None
        self._paths = self._updated_layers()
        updated = {name: base.model.get_submodule(path) for name, path in self._paths.items()}
        self.low_rank = LowRankLayers(base.model, updated, _ADAPTER)
        named = self._named()
        dropouts = [m for n, m in base.model.named_modules() if n.endswith(f"lora_dropout.{_ADAPTER}")]
        self.trainer.extend(list(named.values()), dropouts)
        self.hold(named)
        self._train_only_named()

    def parameters(self) -> Arrays:
        """Copy the trainable part, and what is merged into the base ([out, in]), under stable names."""
        return super().parameters() | self.low_rank.merged

    def frozen_shapes(self) -> Shapes:
        """None: what is merged comes from a method that says so itself."""
        return {}

    def loadable(self) -> Shapes:
        """Shapes [out, in] of the updates that could be merged."""
        return self.low_rank.merged_shapes()

    def keep(self, given: Mapping[str, Tensor]) -> None:
        """Merge updates, fp32 [out, in], into the base's weights.

        Raises:
            ValueError: If a weight is another layer's, too.
        """
        self.low_rank.set_merged(given)

    def factors(self) -> Arrays:
        """A and the scaled B of every layer.

        Raises:
            ValueError: If A is frozen, or a layer's update is no plain product of A and B.
        """
        if self.adapter.freeze_a:
            raise ValueError("adapter.freeze_a=True keeps A fixed, but this method trains it: set false")
        odd = [name for name in self.trained if ".lora_embedding_" in name]
        if odd:
            place = odd[0].partition(".lora_")[0]
            raise ValueError(
                f"adapter.target_modules names the embedding {place}, this method takes linear layers"
            )
        return self.low_rank.factors()

    def load_factors(self, factors: Arrays) -> None:
        """Overwrite A and the scaled B; see ``LowRankLayers``."""
        self.low_rank.load_factors(factors)

    def merge(self, factors: Arrays) -> None:
        """Add B A to the frozen weights; see ``LowRankLayers``."""
        self.low_rank.merge(factors)

    def redraw(self, rng: np.random.Generator) -> None:
        """Draw A, set B to zero."""
        self.low_rank.redraw(rng)

    def reset(self) -> None:
        """Go back to the seed's values, and to the base's own weights."""
        self.low_rank.clear()
        super().reset()

    def export(self, folder: Path) -> None:
        """Write what ``peft.PeftModel.from_pretrained(model, folder)`` opens, and adapter.safetensors.

        With a merged update, peft's files hold both as one update of as many ranks as that needs.
        """
        from safetensors.numpy import save_file as save_arrays
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        whole = self.low_rank.whole() if self.low_rank.merged_names else {}
        state = {
            f"base_model.model.{_plain(name)}": value.detach().cpu().contiguous()
            for name, value in self.base.model.named_parameters()
            if ".lora_" in name
        }
        for name, (a, b) in whole.items():
            place = f"base_model.model.{self._paths[name]}"
            state |= {f"{place}.lora_A.weight": a.contiguous(), f"{place}.lora_B.weight": b.contiguous()}
        prefix = len("head.")
        head = {name[prefix:]: value.detach().cpu().contiguous() for name, value in self.head.tensors.items()}
        state |= {f"base_model.model.{name}": value for name, value in head.items()}
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        save_arrays(self.parameters(), folder / "adapter.safetensors")
        config = self._config(saved_modules(self.base, head))
        config.inference_mode = True
        layers = [self.base.model.get_submodule(path).get_base_layer() for path in self._paths.values()]
        config.fan_in_fan_out = any(isinstance(layer, Conv1D) for layer in layers)
        if whole:
            ranks = {self._paths[name]: len(a) for name, (a, _) in whole.items()}
            config.r = config.lora_alpha = max(ranks.values())
            config.rank_pattern, config.alpha_pattern = ranks, ranks
        config.save_pretrained(str(folder))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While open, the model answers as the base alone does, its head untrained."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        updated = [module for module in self._tuner.modules() if isinstance(module, BaseTunerLayer)]
        try:
            for module in updated:
                module.enable_adapters(False)
            with self.head.untrained(), self.low_rank.hidden():
                yield
        finally:
            for module in updated:
                module.enable_adapters(True)
            self._train_only_named()

    def _train_only_named(self) -> None:
        self.base.model.requires_grad_(False)
        for value in self.trainable().values():
            value.requires_grad_(True)

    def detach(self) -> None:
        """Take the updates out; the base is bit for bit what it was."""
        self.low_rank.clear()
        self._tuner.unload()
        for name in ("peft_config", "_hf_peft_config_loaded"):
            if name in vars(self.base.model):
                delattr(self.base.model, name)
        super().detach()

    def _config(self, saved: list[str] | None = None) -> Any:
        from peft import LoraConfig, TaskType

        targets = self.adapter.target_modules
        backbone = f"{self.base.model.base_model_prefix}."
        outside = [n for n, _ in self.base.model.named_modules() if n and not f"{n}.".startswith(backbone)]
        outside += [
            name.rpartition(".")[0] for name in self.base.head_parameters if name.startswith(backbone)
        ]
        classifies = self.base.head == "classification"
        return LoraConfig(
            r=self.adapter.rank,
            lora_alpha=self.adapter.alpha,  # type: ignore[arg-type]
            lora_dropout=self.adapter.dropout,
            target_modules=targets if targets is None or isinstance(targets, str) else list(targets),
            # The head is trained as a whole, and nobody means the output layer by "all linear".
            exclude_modules=outside if classifies or targets == "all-linear" else None,
            modules_to_save=saved,
            task_type=TaskType.SEQ_CLS if classifies else TaskType.CAUSAL_LM,
            base_model_name_or_path=self.base.path,
        )

    def _inject(self, seed: int) -> Any:
        from peft.tuners.lora import LoraLayer, LoraModel

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sets it by itself
            torch.manual_seed(seed)
            on_meta = torch.device(self.base.device).type == "meta"  # then A and B hold no values either
            tuner = LoraModel(self.base.model, self._config(), _ADAPTER, low_cpu_mem_usage=on_meta)
        self.base.model.requires_grad_(False)
        for name, value in self.base.model.named_parameters():
            if ".lora_" in name:  # fp32 over a base in any dtype
                value.data = value.data.float()
        for module in self.base.model.modules():
            if isinstance(module, LoraLayer) and _ADAPTER in module.lora_A:
                module.cast_input_dtype_enabled = False  # peft's; the products see to it
                for factor in (module.lora_A, module.lora_B):
                    factor[_ADAPTER] = NarrowLinear(factor[_ADAPTER])
        return tuner

    def _named(self) -> dict[str, Tensor]:
        """Trainable LoRA parameters by stable name."""
        found: dict[str, Tensor] = {}
        for name, value in self.base.model.named_parameters():
            if ".lora_" in name and not (self.adapter.freeze_a and ".lora_A." in name):
                found[self._stable(_plain(name)).removesuffix(".weight")] = value
        return found

    def _updated_layers(self) -> dict[str, str]:
        """Path in the model of each linear layer with an update, by stable name."""
        mark = f".lora_A.{_ADAPTER}"
        paths = [n.removesuffix(mark) for n, _ in self.base.model.named_modules() if n.endswith(mark)]
        return {self._stable(path): path for path in paths}

    def _stable(self, name: str) -> str:
        return re.sub(rf"^{re.escape(self._blocks)}\.(\d+)\.", r"layer.\1.", name)


def _plain(name: str) -> str:
    """A parameter's name in peft's files: without the adapter's name."""
    return name.replace(f".{_ADAPTER}", "")
