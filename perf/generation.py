"""CPU time of answering the public prompts in batches against one prompt at a time.

Both go through the model's own ``generate`` (KV cache, greedy); batches are of prompts of similar length.
The contestants run in one process, in turn; figures are medians of CPU time. The texts must be the same.
Start it with ``OMP_NUM_THREADS=1`` (set here if it is not) so that CPU time is one core's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # read once, when NumPy loads its BLAS

from fedapp.adapters.lora.adapter import Lora  # noqa: E402
from fedapp.adapters.reft.adapter import Reft  # noqa: E402
from fedapp.benchmarks.embedded.stories import Embedded  # noqa: E402
from fedapp.core.model import AdaptedModel  # noqa: E402
from fedapp.core.train_config import TrainConfig  # noqa: E402
from fedapp.models.base import load_base  # noqa: E402

import numpy as np  # noqa: E402  # isort: skip


def measure(model: AdaptedModel, prompts: list[str], repeats: int) -> tuple[dict[str, float], int]:
    """Median CPU seconds of either way, and the number of texts that differ."""
    seconds: dict[str, list[float]] = {"one at a time": [], "in batches": []}
    differing = 0
    for repeat in range(repeats + 1):
        start = time.process_time()
        single = [model.generate([prompt])[0] for prompt in prompts]
        middle = time.process_time()
        batched = model.generate(prompts)
        end = time.process_time()
        differing = sum(a != b for a, b in zip(single, batched, strict=True))
        if repeat:  # the first pass warms up
            seconds["one at a time"].append(middle - start)
            seconds["in batches"].append(end - middle)
    return {name: statistics.median(times) for name, times in seconds.items()}, differing


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200, help="public prompts")
    parser.add_argument("--tokens", type=int, default=8, help="longest answer in tokens")
    parser.add_argument("--batch", type=int, default=64, help="prompts per batch")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each contestant")
    options = parser.parse_args()

    benchmark = Embedded(num_train=max(options.prompts, 100), num_test=10)
    examples = [benchmark.template(row) for row in benchmark.load("train")][: options.prompts]
    config = TrainConfig(
        max_length=64, max_new_tokens=options.tokens, eval_batch_size=options.batch, max_steps=5
    )
    base = load_base("asset:embedded", device="cpu")
    base.set_num_threads(1)
    print(f"{len(examples)} prompts, up to {options.tokens} new tokens, batches of {options.batch}")
    for name, adapter in (("LoReFT", Reft()), ("LoRA", Lora())):
        model = adapter.attach(base, config, seed=1)
        model.train(examples, np.random.default_rng(0))  # a model that does not merely echo the base
        cpu, differing = measure(model, [example.prompt for example in examples], options.repeats)
        print(f"{name}: one at a time {cpu['one at a time']:.2f} s CPU, in batches {cpu['in batches']:.2f}")
        ratio = cpu["one at a time"] / cpu["in batches"]
        print(f"  one at a time / in batches     {ratio:8.2f}   goal >= 5")
        print(f"  texts that differ              {differing:8d}   goal 0")
        model.detach()


if __name__ == "__main__":
    main()
