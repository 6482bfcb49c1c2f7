"""Training steps at real sizes: ours against pyreft's and peft's own loops, tokens/s and peak memory.

Run on a machine with a GPU:
``python perf/gpu_step.py --shape 1b --batch 16 --length 512 [--checkpointing]``

The models have the shapes of Llama 3.2 1B and 3B and random weights, in bf16; nothing is downloaded. All
paths stand on the same frozen weights, in one process, and take turns. A step is forward, backward, AdamW
(and for ours the projection of R). Memory is what a step needs at its peak on top of what lies on the device
before it. ``--shape tiny`` runs anywhere and shows only that everything works.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import io
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base
from fedapp.training.tokens import Batch

Step = Callable[[], object]
_LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "intermediate_size": 8192, "rope_theta": 500_000.0}
# hidden_size, num_hidden_layers, num_attention_heads; source: the published config.json of each model.
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {**_LLAMA, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64},
    "3b": {
        **_LLAMA,
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
    },
    "tiny": {
        "vocab_size": 256,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}
POSITIONS = "f7+l7"  # ReFT's choice for commonsense
TARGETS = ["q_proj", "v_proj"]
LEARNING_RATE = 1e-4


def frozen(shape: str, length: int, device: str) -> Any:
    """A random model in bf16, made on the device."""
    config = transformers.LlamaConfig(
        **SHAPES[shape], max_position_embeddings=max(length, 2048), tie_word_embeddings=True
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def shared_copy(model: Any) -> Any:
    """Another model over the same tensors, so that an adapter on one leaves the others alone."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def as_base(model: Any) -> Base:
    """What our adapters take; without the fingerprint, which would hash gigabytes."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    return Base(model, tokenizer, "lm", (), "", next(model.parameters()).device)


def random_batch(vocabulary: int, rows: int, width: int, device: str) -> Batch:
    """A batch without padding whose prompts take seven eighths of each row."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, vocabulary, (rows, width), generator=generator)
    targets = ids.clone()
    prompt = 7 * width // 8
    targets[:, :prompt] = -100
    lengths, offsets = np.full(rows, prompt, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    return Batch(ids.to(device), torch.ones_like(ids, device=device), targets.to(device), lengths, offsets)


def our_step(adapter: Reft | Lora, model: Any, batch: Batch, options: argparse.Namespace) -> Step:
    """The step that a client takes."""
    train = TrainConfig(
        learning_rate=LEARNING_RATE,
        max_grad_norm=0.0,
        batch_size=options.batch,
        max_length=options.length,
        gradient_checkpointing=options.checkpointing,
    )
    trainer = adapter.attach(as_base(model), train, seed=0).trainer
    optimizer = trainer.optimizer()
    return lambda: trainer.step(batch, optimizer)


def their_checkpointing(model: Any, options: argparse.Namespace) -> None:
    """Transformers' own switch; it acts in training mode only, and a Llama drops nothing there."""
    if options.checkpointing:
        switch = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        switch({"use_reentrant": False})
        model.train()


def peft_step(model: Any, batch: Batch, options: argparse.Namespace) -> Step:
    """Peft's documented path."""
    import peft

    config = peft.LoraConfig(
        r=options.rank, lora_alpha=2 * options.rank, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    adapted: Any = peft.get_peft_model(model, config)
    their_checkpointing(model, options)
    optimizer = torch.optim.AdamW([v for v in adapted.parameters() if v.requires_grad], lr=LEARNING_RATE)

    def step() -> None:
        adapted(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.targets,
            use_cache=False,
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pyreft_step(model: Any, batch: Batch, options: argparse.Namespace) -> Step:
    """Pyreft's documented path: unit locations, interventions in its own default of bf16."""
    with contextlib.redirect_stdout(io.StringIO()):
        import pyreft
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    representations = []
    for _group in ("first", "last"):
        for layer in range(layers):
            one = pyreft.LoreftIntervention(
                embed_dim=width, low_rank_dimension=options.rank, dtype=torch.bfloat16
            )
            place = {"layer": layer, "component": "block_output", "low_rank_dimension": options.rank}
            representations.append({**place, "intervention": one})
    adapted = pyreft.ReftModel(pyreft.ReftConfig(representations=representations), model)
    adapted.set_device(batch.input_ids.device)
    adapted.disable_model_gradients()
    their_checkpointing(model, options)
    found = [
        pyreft.get_intervention_locations(
            last_position=int(length), positions=POSITIONS, num_interventions=2 * layers
        )
        for length in batch.prompt_lengths
    ]
    places = [[row[slot] for row in found] for slot in range(2 * layers)]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    trainable = [v for one in adapted.interventions.values() for v in one.parameters() if v.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=0.0)

    def step() -> None:
        _, output = adapted(
            inputs, unit_locations={"sources->base": (None, places)}, labels=batch.targets, use_cache=False
        )
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def clock(device: str) -> float:
    """Seconds: the wall's once a GPU is done, the process's own on a CPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    steps: dict[str, Step], repeats: int, device: str
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Median seconds per step and peak GiB on top of what was there, the paths taking turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, float | None] = dict.fromkeys(steps)
    for turn in range(repeats + 3):
        for name, step in steps.items():
            before = 0
            if device != "cpu":
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            start = clock(device)
            step()
            spent = clock(device) - start
            if turn < 3:  # the first turns choose kernels and make the optimiser's state
                continue
            times[name].append(spent)
            if device != "cpu":
                peak = (torch.cuda.max_memory_allocated() - before) / 2**30
                peaks[name] = max(peak, peaks[name] or 0.0)
    return {name: statistics.median(values) for name, values in times.items()}, peaks


def describe(model: Any, options: argparse.Namespace, device: str) -> None:
    """What was measured, where, with what and when."""
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU (says nothing about speed at real sizes)"
    names = ("torch", "transformers", "peft", "pyreft", "pyvene")
    versions = ", ".join(f"{package} {version(package)}" for package in names)
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    print(f"{datetime.date.today()}, {name}; {versions}")
    print(
        f"Llama-shaped {options.shape}, random bf16 weights ({weights / 2**30:.2f} GiB), "
        f"{options.batch} x {options.length} tokens, rank {options.rank}, LoReFT {POSITIONS} on all layers, "
        f"LoRA on q and v, gradient checkpointing {'on' if options.checkpointing else 'off'}"
    )


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per row")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20, help="timed turns per path")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every path")
    options = parser.parse_args()
    if not torch.cuda.is_available() and options.shape != "tiny":
        raise SystemExit(
            f"--shape {options.shape} needs a GPU and none is visible here; --shape tiny runs anywhere"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = frozen(options.shape, options.length, device)
    batch = random_batch(model.config.vocab_size, options.batch, options.length, device)
    describe(model, options, device)
    loreft = Reft(rank=options.rank, positions=POSITIONS)
    lora = Lora(rank=options.rank, alpha=2.0 * options.rank, target_modules=TARGETS)
    steps = {
        "LoReFT, fedapp": our_step(loreft, shared_copy(model), batch, options),
        "LoReFT, pyreft": pyreft_step(shared_copy(model), batch, options),
        "LoRA, fedapp": our_step(lora, shared_copy(model), batch, options),
        "LoRA, peft": peft_step(shared_copy(model), batch, options),
    }
    times, peaks = measure(steps, options.repeats, device)
    tokens = options.batch * options.length
    for name, seconds in times.items():
        peak = peaks[name]
        memory = "" if peak is None else f"{peak:8.2f} GiB"
        print(f"  {name:<16}{tokens / seconds:12.0f} tokens/s {1e3 * seconds:10.2f} ms{memory}")
    print(f"  LoReFT: fedapp / pyreft {times['LoReFT, fedapp'] / times['LoReFT, pyreft']:.3f} of the time")
    print(f"  LoRA: fedapp / peft {times['LoRA, fedapp'] / times['LoRA, peft']:.3f} of the time")
    print(f"  fedapp: LoReFT / LoRA {times['LoReFT, fedapp'] / times['LoRA, fedapp']:.3f} of the time")


if __name__ == "__main__":
    main()
