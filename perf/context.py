"""Cost of context vectors: calibration against LoRA, encoding in batches, injection, few-shot prompts.

Run: ``python perf/context.py [--repeats 40] [--threads 1]``

All on one frozen random Llama (6 layers, 256 wide) in one process; the paths of a table take turns,
and the figures are medians of CPU time. A step is forward, backward and AdamW on the same batch.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from step_time import LAYERS, TRAIN, VOCABULARY, base_model, measure

from fedapp.adapters.context.adapter import Context, ContextAdapted
from fedapp.adapters.lora.adapter import Lora
from fedapp.models.base import Base
from fedapp.training.tokens import Encoded

Step = Callable[[], object]
LORA = Lora(rank=8, target_modules=["q_proj", "v_proj"])


def rows(count: int, shortest: int, longest: int, answer: int = 1) -> list[Encoded]:
    """Random prompts with an answer of so many tokens."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(shortest, longest + 1, size=count)
    return [Encoded(rng.integers(2, VOCABULARY, size=n + answer).tolist(), int(n)) for n in lengths]


def calibration(base: Base, size: int, width: int, repeats: int) -> None:
    """A calibration step against a LoRA step on the same prompts."""
    given = rows(size, 3 * width // 4, width - 2)
    # Each adapter on a copy of its own: peft's changes modules, and the paths are to take turns.
    copies = [replace(base, model=copy.deepcopy(base.model)) for _ in range(3)]
    adapted = [LORA.attach(copies[0], TRAIN, seed=0), loaded(copies[1]), loaded(copies[2], 0.0)]
    names = ("LoRA (q, v)", "calibration", "calibration, no noise")
    steps = {name: trainer_step(one.trainer, given) for name, one in zip(names, adapted, strict=True)}
    times = measure(steps, repeats)
    print(f"\nstep, batch {size} x {width} tokens")
    for name, value in times.items():
        print(f"  {name:<24}{value:9.2f} ms  {value / times[names[0]]:5.2f} x LoRA (goal <= 1)")


def trainer_step(trainer, given: list[Encoded]) -> Step:
    """The step that a client takes."""
    batch, optimizer = trainer.encoder.batch(given), trainer.optimizer()
    return lambda: trainer.step(batch, optimizer)


def loaded(base: Base, noise: float = 1e-3) -> ContextAdapted:
    """A context adapter with random vectors."""
    adapted = Context(noise=noise).attach(base, TRAIN, seed=0)
    vectors = np.random.default_rng(0).normal(size=adapted.shape, scale=0.1).astype(np.float32)
    adapted.load({"context-vectors": vectors})
    return adapted


def encoding(base: Base, repeats: int) -> None:
    """64 demonstrations in batches against one at a time."""
    adapted = loaded(base)
    given = rows(64, 16, 64, answer=0)
    adapted.trainer.encoder.prompts = lambda texts: list(given)
    texts = [""] * len(given)

    def run(size: int) -> Step:
        def step() -> None:
            adapted.trainer.config = replace(TRAIN, eval_batch_size=size)
            for _ in adapted._read(texts):
                pass

        return step

    times = measure({"batched": run(16), "one by one": run(1)}, max(repeats // 4, 1))
    adapted.detach()
    ratio = times["one by one"] / times["batched"]
    print(
        f"\nencoding 64 demonstrations of 16 to 64 tokens: batches of 16 {times['batched']:.1f} ms, "
        f"one by one {times['one by one']:.1f} ms, {ratio:.2f} x"
    )


def inference(base: Base, repeats: int, size: int = 8, width: int = 40, shots: int = 8) -> None:
    """Label choice under injection against the bare prompt and a prompt behind demonstrations."""
    adapted = loaded(base)
    trainer = adapted.trainer

    def choose(given: list[Encoded]) -> Step:
        batch = trainer.encoder.batch(given)
        lengths = torch.from_numpy(batch.prompt_lengths)

        def step() -> object:
            with torch.no_grad(), trainer._scope(batch):
                return trainer.last_logits(batch.input_ids, batch.attention_mask, lengths).argmax(1)

        return step

    zero = rows(size, width // 2, width, answer=0)
    few = rows(size, width * (shots + 1) // 2, width * (shots + 1), answer=0)
    bare, injected, behind = choose(zero), choose(zero), choose(few)

    def without(step: Step) -> Step:
        def run() -> object:
            with adapted.disabled():
                return step()

        return run

    paths = {"zero-shot": without(bare), "injected": injected, f"few-shot ({shots})": without(behind)}
    times = measure(paths, repeats)
    adapted.detach()
    print(f"\nanswering {size} prompts of {width // 2} to {width} tokens")
    for name, value in times.items():
        print(f"  {name:<24}{value:9.2f} ms  {value / times['zero-shot']:5.2f} x zero-shot")
    print(
        f"  injected / zero-shot {times['injected'] / times['zero-shot']:.3f} (goal <= 1.05); "
        f"few-shot / injected {times[f'few-shot ({shots})'] / times['injected']:.2f} (goal >= 2)"
    )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40, help="timed turns per path (default 40)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = base_model()
    print(f"random Llama, {LAYERS} layers, {options.threads} thread(s)")
    for size, width in ((16, 64), (8, 48), (2, 32)):
        calibration(base, size, width, options.repeats)
    encoding(base, options.repeats)
    inference(base, options.repeats)


if __name__ == "__main__":
    main()
