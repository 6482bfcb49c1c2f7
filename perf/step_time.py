"""Time of a training step: ours against the floor, pyreft's own path and peft's LoRA.

Run: ``python perf/step_time.py [--repeats 60] [--threads 1]``

All paths share one frozen random Llama (6 layers, 256 wide), one process and one loss (transformers'
own, with labels), and take turns; printed are medians of CPU time. The floor is the same model
with a gradient that reaches the lowest intervened layer and no intervention: nothing that edits
that layer can be cheaper. A step is forward, backward, AdamW and, for ours, the projection of R.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft, ReftAdapted
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base, make_base
from fedapp.training.tokens import Batch

VOCABULARY, HIDDEN, LAYERS, RANK = 512, 256, 6, 8
TRAIN = TrainConfig(max_grad_norm=0.0, learning_rate=1e-3)
Step = Callable[[], float]


def base_model() -> Base:
    """A frozen random Llama with a tokenizer that is never asked for text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    return make_base(LlamaForCausalLM(config), tokenizer)


def random_batch(rows: int, width: int) -> Batch:
    """A batch without padding whose prompts take three quarters of each row."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (rows, width), generator=generator)
    prompt = 3 * width // 4
    targets = ids.clone()
    targets[:, :prompt] = -100
    lengths = np.full(rows, prompt, dtype=np.int64)
    return Batch(ids, torch.ones_like(ids), targets, lengths, np.zeros(rows, dtype=np.int64))


def own_loss(base: Base, batch: Batch) -> torch.Tensor:
    """Transformers' own loss, the same for every path."""
    loss: torch.Tensor = base.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets, use_cache=False
    ).loss
    return loss


def floor_step(base: Base, batch: Batch, lowest: int) -> Step:
    """Forward and backward down to the output of the lowest intervened block."""

    def anchor(_module: Any, _args: Any, output: Any) -> Any:
        return output.requires_grad_()

    def step() -> float:
        handle = base.model.model.layers[lowest].register_forward_hook(anchor)
        loss = own_loss(base, batch)
        loss.backward()
        handle.remove()
        return loss.item()

    return step


def our_step(adapted: ReftAdapted, batch: Batch) -> Step:
    """The interventions under the common loss, then optimiser and projection as in training."""
    trainer = adapted.trainer
    optimizer = trainer.optimizer()

    def step() -> float:
        with adapted.armed(batch):
            loss = own_loss(adapted.base, batch)
            loss.backward()
        trainer.apply(optimizer)
        return loss.item()

    return step


def shipped_step(adapted: ReftAdapted, batch: Batch) -> Step:
    """The step that a client takes: as ours, with logits of the answers only."""
    optimizer = adapted.trainer.optimizer()
    return lambda: adapted.trainer.step(batch, optimizer)


def pyreft_model(base: Base, adapted: ReftAdapted) -> Any:
    """Pyreft's model of the same interventions with the same weights."""
    with contextlib.redirect_stdout(io.StringIO()):
        import pyreft
    kind, layers, groups = pyreft.LoreftIntervention, adapted.layers, adapted.groups
    values = adapted.parameters()
    representations = []
    for group in groups:
        for layer in layers:
            one = kind(embed_dim=base.model.config.hidden_size, low_rank_dimension=RANK, dtype=torch.float32)
            state = {
                "rotate_layer": torch.from_numpy(values[f"layer.{layer}.{group}.rotate"]),
                "weight": torch.from_numpy(values[f"layer.{layer}.{group}.weight"]),
                "bias": torch.from_numpy(values[f"layer.{layer}.{group}.bias"]),
            }
            one.load_state_dict(state)
            representations.append(
                {"layer": layer, "component": "block_output", "low_rank_dimension": RANK, "intervention": one}
            )
    # A copy, as pyvene removes every hook that it finds on a model, ours included.
    copied = copy.deepcopy(base.model)
    model = pyreft.ReftModel(pyreft.ReftConfig(representations=representations), copied)
    model.disable_model_gradients()
    return model


def pyreft_step(model: Any, batch: Batch, num_layers: int) -> Step:
    """Pyreft's documented path: forward with unit locations, backward, AdamW."""
    with contextlib.redirect_stdout(io.StringIO()):
        import pyreft
    rows = [
        pyreft.get_intervention_locations(
            last_position=int(length), positions="f4+l4", num_interventions=2 * num_layers
        )
        for length in batch.prompt_lengths
    ]
    places = [[row[slot] for row in rows] for slot in range(2 * num_layers)]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    trainable = [p for one in model.interventions.values() for p in one.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=TRAIN.learning_rate, weight_decay=0.0)

    def step() -> float:
        _, output = model(
            inputs, unit_locations={"sources->base": (None, places)}, labels=batch.targets, use_cache=False
        )
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return output.loss.item()

    return step


def measure(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds per step, the paths taking turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = min(repeats, 5)
    for turn in range(repeats + warm_up):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn >= warm_up:  # the first turns warm caches and allocator up
                times[name].append(time.process_time() - start)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def lora_times(base: Base, batch: Batch, repeats: int) -> dict[str, float]:
    """Peft's LoRA on q and v beside the floor; its modules change the model, so it runs alone."""
    floor = floor_step(base, batch, 0)
    plain = measure({"floor": floor}, repeats)["floor"]
    adapted = Lora(rank=RANK, target_modules=["q_proj", "v_proj"]).attach(base, TRAIN, seed=0)
    optimizer = adapted.trainer.optimizer()

    def step() -> float:
        loss = own_loss(base, batch)
        loss.backward()
        adapted.trainer.apply(optimizer)
        return loss.item()

    result = {"floor": plain, "peft LoRA (q, v)": measure({"lora": step}, repeats)["lora"]}
    adapted.detach()
    again = measure({"floor": floor}, repeats)["floor"]
    result["floor"] = (plain + again) / 2
    return result


def compare(base: Base, batch: Batch) -> tuple[float, float]:
    """Largest difference to pyreft at equal weights: relative loss, and gradients of W and b."""
    adapted = Reft(rank=RANK).attach(base, TRAIN, seed=0)
    with adapted.armed(batch):
        losses, count = adapted.trainer.losses(batch)
        ours = losses.sum() / count
        ours.backward()
    model = pyreft_model(base, adapted)
    layers = adapted.layers
    rows = [list(range(4)), [int(batch.prompt_lengths[0]) - 4 + i for i in range(4)]]
    places = [[row] * len(batch.input_ids) for row in rows for _ in layers]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    _, output = model(inputs, unit_locations={"sources->base": (None, places)}, labels=batch.targets)
    output.loss.backward()
    worst = 0.0
    for index, one in enumerate(model.interventions.values()):
        slot, columns = (
            index % len(layers),
            slice(index // len(layers) * RANK, (index // len(layers) + 1) * RANK),
        )
        assert adapted.weight.grad is not None
        assert adapted.bias.grad is not None
        source = one.learned_source
        worst = max(worst, float((source.weight.grad - adapted.weight.grad[slot][columns]).abs().max()))
        worst = max(worst, float((source.bias.grad - adapted.bias.grad[slot][columns]).abs().max()))
    difference = abs(ours.item() - output.loss.item())
    adapted.detach()
    return difference, worst


def report(base: Base, rows: int, width: int, layers: list[int], repeats: int) -> None:
    """Print one table of medians and ratios."""
    batch = random_batch(rows, width)
    adapted = Reft(rank=RANK, layers=layers).attach(base, TRAIN, seed=0)
    steps: dict[str, Step] = {
        "floor": floor_step(base, batch, layers[0]),
        "fedapp LoReFT": our_step(adapted, batch),
        "fedapp LoReFT, as shipped": shipped_step(adapted, batch),
        "pyreft LoReFT": pyreft_step(pyreft_model(base, adapted), batch, len(layers)),
    }
    times = measure(steps, repeats)
    adapted.detach()
    print(f"\nbatch {rows} x {width} tokens, layers {layers[0]}-{layers[-1]}")
    for name, value in times.items():
        print(f"  {name:<27}{value:9.2f} ms  {value / times['floor']:5.2f} x floor")
    if layers[0] == 0:
        lora = lora_times(base, batch, repeats)
        value = lora["peft LoRA (q, v)"]
        print(f"  {'peft LoRA (q, v)':<27}{value:9.2f} ms  {value / lora['floor']:5.2f} x floor (beside it)")


def main() -> None:
    """Measure both batch sizes, all layers and the upper half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60, help="timed turns per path (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = base_model()
    for rows, width in ((16, 64), (2, 32)):
        loss, gradient = compare(base, random_batch(rows, width))
        print(
            f"{rows} x {width}: |loss - pyreft's| = {loss:.1e}, "
            f"largest |gradient of W, b - pyreft's| = {gradient:.1e}"
        )
    for rows, width in ((16, 64), (2, 32)):
        for layers in (list(range(LAYERS)), list(range(LAYERS // 2, LAYERS))):
            report(base, rows, width, layers, options.repeats)


if __name__ == "__main__":
    main()
