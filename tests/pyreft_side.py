"""The same interventions built with pyreft, for comparison."""

from __future__ import annotations

import copy

import pyreft
import torch

from fedapp.adapters.reft.export import register


def pyreft_model(adapted):
    """Pyreft's model over a copy of the base (pyvene takes every hook off the model it is given)."""
    model = copy.deepcopy(adapted.base.model)
    register(model)
    width = model.config.hidden_size
    rank = adapted.adapter.rank
    values = {name: torch.from_numpy(value) for name, value in adapted.parameters().items()}
    representations = []
    for group in adapted.groups:
        for layer in adapted.layers:
            one = pyreft.LoreftIntervention(embed_dim=width, low_rank_dimension=rank, dtype=torch.float32)
            names = {"rotate_layer": "rotate", "weight": "weight", "bias": "bias"}
            one.load_state_dict({k: values[f"layer.{layer}.{group}.{v}"] for k, v in names.items()})
            representations.append(
                {"layer": layer, "component": "block_output", "low_rank_dimension": rank, "intervention": one}
            )
    made = pyreft.ReftModel(pyreft.ReftConfig(representations=representations), model)
    made.disable_model_gradients()
    return made


def with_sink(adapted, prompts, *, left=False, answers=None):
    """Inputs as pyreft makes them: a padding token in front, which takes the positions that are missing.

    Returns:
        Inputs, unit locations and labels.
    """
    answers = answers or [[] for _ in prompts]
    tokenizer = adapted.base.tokenizer
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
    ids, mask, labels, places = [], [], [], []
    count = len(adapted.layers) * len(adapted.groups)
    for prompt, answer in zip(prompts, answers, strict=True):
        row = [*prompt, *answer]
        gap = width - len(row) - 1
        before, after = (gap + 1, 0) if left else (1, gap)
        ids.append([tokenizer.pad_token_id] * before + row + [tokenizer.pad_token_id] * after)
        mask.append([0] * before + [1] * len(row) + [0] * after)
        labels.append([-100] * (before + len(prompt)) + answer + [-100] * after)
        found = pyreft.get_intervention_locations(
            last_position=len(prompt),
            positions=adapted.adapter.positions,
            num_interventions=count,
            share_weights=adapted.adapter.tied,
        )
        places.append([[place + before if place >= 0 else 0 for place in one] for one in found])
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    locations = {"sources->base": (None, [[row[slot] for row in places] for slot in range(count)])}
    return inputs, locations, torch.tensor(labels)
