"""A LoReFT step against a LoRA step, on a decoder and on an encoder, and against its own upper half.

Run: ``python perf/against_lora.py [--repeats 40] [--threads 1]``

Random models of 6 layers, 256 wide; a batch of 16 x 64 tokens; rank 8 in both; LoRA on the query and value
projections. One process; every path has a copy of the same base of its own, and the paths take turns. The
figures are medians of CPU time and, as ratios, medians over the turns. A step is the one that a
client takes (``Trainer.step``); "peft's own loop" is ``get_peft_model``, the model's own loss, AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from step_time import HIDDEN, LAYERS, RANK, TRAIN, VOCABULARY, base_model, random_batch

from fedapp.adapters.lora.adapter import Lora
from fedapp.adapters.reft.adapter import Reft
from fedapp.models.base import Base, make_base
from fedapp.training.tokens import Batch

Step = Callable[[], object]
SIZES = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "intermediate_size": 4 * HIDDEN}
ROWS, WIDTH = 16, 64


def encoder_model() -> Base:
    """A frozen random RoBERTa with a head of two labels."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY, num_attention_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=1, **SIZES
    )
    model = transformers.RobertaForSequenceClassification(config)
    return make_base(model, base_model().tokenizer, head="classification", labels=("no", "yes"))


def labelled_batch() -> Batch:
    """The same tokens as for the decoder, the whole row a prompt, with a label per row."""
    lm = random_batch(ROWS, WIDTH)
    lengths = np.full(ROWS, WIDTH, dtype=np.int64)
    return Batch(lm.input_ids, lm.attention_mask, torch.arange(ROWS) % 2, lengths, lm.offsets)


def client_step(adapter: Reft | Lora, base: Base, batch: Batch) -> Step:
    """The step that a client takes."""
    trainer = adapter.attach(base, TRAIN, seed=0).trainer
    optimizer = trainer.optimizer()
    return lambda: trainer.step(batch, optimizer)


def peft_step(base: Base, batch: Batch, targets: list[str]) -> Step:
    """Peft's documented path."""
    import peft

    kind = "SEQ_CLS" if base.head == "classification" else "CAUSAL_LM"
    model: Any = peft.get_peft_model(
        base.model,
        peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, task_type=kind),  # type: ignore[arg-type]
    ).eval()
    trainable = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=TRAIN.learning_rate, weight_decay=0.0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.targets}

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def turns(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of every turn of every path."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 5):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn >= 5:  # the first turns warm caches and allocator up
                times[name].append(1e3 * (time.process_time() - start))
    return times


def report(title: str, make: Callable[[], Base], batch: Batch, targets: list[str], repeats: int) -> None:
    """Print one table."""
    upper = list(range(LAYERS // 2, LAYERS))
    steps = {
        "LoReFT, all layers": client_step(Reft(rank=RANK), make(), batch),
        f"LoReFT, layers {upper[0]}-{upper[-1]}": client_step(Reft(rank=RANK, layers=upper), make(), batch),
        "LoRA (q, v)": client_step(Lora(rank=RANK, target_modules=targets), make(), batch),
        "LoRA (q, v), peft's own loop": peft_step(make(), batch, targets),
    }
    times = turns(steps, repeats)
    loreft, half, lora, own = times.values()
    print(f"\n{title}, {ROWS} x {WIDTH} tokens")
    for name, values in times.items():
        print(f"  {name:<30}{statistics.median(values):8.2f} ms")
    for name, above, below in (
        ("LoReFT / LoRA (goal <= 1.0)", loreft, lora),
        ("LoReFT / peft's own loop", loreft, own),
        ("upper half / all layers", half, loreft),
    ):
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        print(f"  {name:<30}{statistics.median(ratios):8.3f}")


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40, help="timed turns per path (default 40)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    decoder = random_batch(ROWS, WIDTH)
    report("Llama", base_model, decoder, ["q_proj", "v_proj"], options.repeats)
    report("RoBERTa", encoder_model, labelled_batch(), ["query", "value"], options.repeats)


if __name__ == "__main__":
    main()
