"""Writes interventions as a folder that pyreft opens, without importing pyreft.

``pyreft.ReftModel.load(folder, model)`` builds each intervention anew, in bf16, and copies the saved
tensors into it, which rounds them. Torch's own ``assign_to_params_buffers`` mark, set in the saved
state dict, makes it put the fp32 tensors in place instead. Over a base in another dtype the mark is
left out, as pyreft feeds hidden states to W without a cast: W and b are rounded to bf16 there.

Two limits of pyreft 0.1.0 remain. It cannot rebuild NoReFT and NodiReFT interventions at all (the
constructor's ``add_bias`` is not saved), so these name classes of ours that can
(``fedapp.adapters.pyreft_classes``: fedapp must be installed where the folder is opened). And models
that pyvene does not list (BERT, RoBERTa) have to be made known to it first, by ``register(model)``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedapp.models.structure import block_list, hidden_size

if TYPE_CHECKING:
    from fedapp.adapters.reft.adapter import ReftAdapted

_CLASSES = {
    "loreft": "pyreft.interventions.LoreftIntervention",
    "direct": "pyreft.interventions.DireftIntervention",
    "consreft": "pyreft.interventions.ConsreftIntervention",
    "lobireft": "pyreft.interventions.LobireftIntervention",
    "noreft": "fedapp.adapters.pyreft_classes.NoreftIntervention",
    "direft": "fedapp.adapters.pyreft_classes.NodireftIntervention",
}


def write(adapted: ReftAdapted, folder: Path) -> None:
    """Write config.json, one intkey_*.bin per intervention and adapter.safetensors.

    The interventions come group by group (all layers' first tokens, then all layers' last ones),
    the order of ``pyreft.get_intervention_locations``. A classification head goes to
    pytorch_model.bin (``ReftModel.load(folder, model, include_model=True)``).

    Raises:
        ValueError: If the interventions have an activation, which pyreft does not save.
    """
    from safetensors.numpy import save_file

    if adapted.adapter.act_fn is not None:
        raise ValueError(
            f"adapter.act_fn={adapted.adapter.act_fn!r} cannot be exported: pyreft's folders have none"
        )
    folder.mkdir(parents=True, exist_ok=True)
    parameters = adapted.parameters()
    tensors = {name: torch.from_numpy(value) for name, value in parameters.items()}
    keys: list[str] = []
    for index, group in enumerate(adapted.groups):
        for layer in adapted.layers:
            keys.append(f"layer_{layer}_comp_block_output_unit_pos_nunit_1#{index}")
            state = _state(
                adapted, {k: tensors.get(f"layer.{layer}.{group}.{k}") for k in ("rotate", "weight", "bias")}
            )
            torch.save(state, folder / f"intkey_{keys[-1]}.bin")
    if adapted.head.tensors:
        head = {
            name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")
        }
        torch.save(head, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(_config(adapted, keys), indent=2) + "\n", encoding="utf-8")
    save_file(parameters, folder / "adapter.safetensors")


def _config(adapted: ReftAdapted, keys: list[str]) -> dict[str, Any]:
    rank, count = adapted.adapter.rank, len(keys)
    layers = [layer for _ in adapted.groups for layer in adapted.layers]
    kind = _CLASSES[adapted.adapter.intervention]
    # The fields of pyvene's RepresentationConfig, in order.
    nothing: list[None] = [None] * 9
    return {
        "representations": [[layer, "block_output", "pos", 1, rank, *nothing] for layer in layers],
        "intervention_types": [f"<class '{kind}'>"] * count,
        "intervention_dimensions": [hidden_size(adapted.base.model)] * count,
        "intervention_constant_sources": [True] * count,
        "sorted_keys": keys,
        "mode": "parallel",
    }


def _state(adapted: ReftAdapted, part: dict[str, Tensor | None]) -> OrderedDict[str, Tensor]:
    """The state dict that the intervention's class loads."""
    rotate, weight, bias = part["rotate"], part["weight"], part["bias"]
    assert rotate is not None
    assert bias is not None
    state: OrderedDict[str, Tensor] = OrderedDict()
    if adapted.adapter.intervention == "loreft":
        state.update(weight=weight, bias=bias, rotate_layer=rotate)  # type: ignore[arg-type]
    else:
        width = torch.tensor(rotate.shape[0])
        state.update(embed_dim=width, interchange_dim=width)
        source = {"learned_source": bias}
        if weight is not None:
            source = {"learned_source.weight": weight, "learned_source.bias": bias}
        state.update(source)
        state.update(
            _orthogonal(rotate)
            if adapted.form.orthonormal
            else {"proj_layer.weight": rotate.t().contiguous()}
        )
    if next(adapted.base.model.parameters()).dtype == torch.float32:
        mark = {"assign_to_params_buffers": True}
        state._metadata = {"": mark, "learned_source": mark, "proj_layer": mark}  # type: ignore[attr-defined]
    return state


def _orthogonal(rotate: Tensor) -> dict[str, Tensor]:
    """R in torch's orthogonal parametrisation: a square basis that starts with R, and no rotation yet."""
    width, rank = rotate.shape
    rest = torch.linalg.qr(torch.cat([rotate, torch.eye(width)], 1))[0][:, rank:]
    return {
        "rotate_layer.parametrizations.weight.original": -torch.eye(width, rank),  # torch's zero rotation
        "rotate_layer.parametrizations.weight.0.base": torch.cat([rotate, rest], 1),
    }


def register(model: Any) -> None:
    """Tell pyvene where the blocks of a model are, for models that it does not list."""
    from pyvene.models import intervenable_modelcard as card

    if type(model) in card.type_to_module_mapping:
        return
    path, _ = block_list(model)
    card.type_to_module_mapping[type(model)] = {"block_output": (f"{path}[%s]", card.CONST_OUTPUT_HOOK)}
    card.type_to_dimension_mapping[type(model)] = {"block_output": ("hidden_size",)}
