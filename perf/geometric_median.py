"""CPU time of GeoMedian-ABM for all clients at once, against Mean-ABM and one plain loop per client.

All contestants run in one process, in turn, on the same uploads; figures are medians of CPU time.
Next to this project's Mean-ABM (which leaves the receiver out exactly) stands the shortest one,
total minus own in fp32, as a floor that nothing can be tuned around. Start it with
``OMP_NUM_THREADS=1`` (set here if it is not) so that CPU time is one core's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # read once, when NumPy loads its BLAS

import numpy as np  # noqa: E402

from fedapp.aggregation import GeometricMedian, Mean  # noqa: E402
from fedapp.core.types import Arrays  # noqa: E402


def make_uploads(num_clients: int, size: int, num_arrays: int, seed: int) -> list[Arrays]:
    """A common start plus each client's own change, ``size`` fp32 values in ``num_arrays`` arrays."""
    rng = np.random.default_rng(seed)
    bounds = np.linspace(0, size, num_arrays + 1).astype(int)
    start = rng.standard_normal(size, dtype=np.float32)
    uploads = []
    for client_id in range(num_clients):
        values = rng.standard_normal(size, dtype=np.float32) * np.float32(0.05 * (1 + client_id % 3))
        values += start
        uploads.append({f"array.{i}": values[bounds[i] : bounds[i + 1]] for i in range(num_arrays)})
    return uploads


def subtract_from_total(uploads: list[Arrays]) -> list[Arrays]:
    """Mean-ABM at its shortest: fp32 total minus own."""
    totals = {name: sum(upload[name] for upload in uploads) for name in uploads[0]}
    share = np.float32(1 / (len(uploads) - 1))
    return [{name: (totals[name] - array) * share for name, array in u.items()} for u in uploads]


def loop_per_client(uploads: list[Arrays], settings: GeometricMedian) -> list[Arrays]:
    """One plain smoothed Weiszfeld loop per client on flattened fp32 uploads, same start and stop."""
    names, ends = list(uploads[0]), np.cumsum([array.size for array in uploads[0].values()])[:-1]
    points = np.stack([np.concatenate(list(upload.values())) for upload in uploads])
    medians = []
    for left_out in range(len(uploads)):
        others = np.delete(points, left_out, axis=0)
        z = others.mean(axis=0)
        for _ in range(settings.max_iterations):
            distances = np.array([np.linalg.norm(x - z) for x in others], np.float64)
            pull = 1 / np.maximum(distances, settings.smoothing)
            new = (pull / pull.sum()).astype(np.float32) @ others
            step = float(np.linalg.norm(new - z))
            z = new
            if step * pull.mean() <= settings.tolerance:
                break
        medians.append(dict(zip(names, np.split(z, ends), strict=True)))
    return medians


def relative_difference(found: list[Arrays], expected: list[Arrays]) -> float:
    """Largest over clients of |found - expected| / |expected|."""
    worst = 0.0
    for left, right in zip(found, expected, strict=True):
        gap = sum(float(np.square(left[n].astype(float) - right[n]).sum()) for n in right)
        norm = sum(float(np.square(right[n].astype(float)).sum()) for n in right)
        worst = max(worst, (gap / norm) ** 0.5)
    return worst


def peak_memory(work: Callable[[], object]) -> int:
    """Most bytes that ``work`` held at once, its result included."""
    tracemalloc.start()
    kept = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10, help="number of uploads")
    parser.add_argument("--size", type=int, default=1_000_000, help="values per upload")
    parser.add_argument("--arrays", type=int, default=24, help="named arrays per upload")
    parser.add_argument("--repeats", type=int, default=9, help="timed passes of each contestant")
    parser.add_argument("--no-loop", action="store_true", help="leave out the slow loop per client")
    options = parser.parse_args()

    uploads = make_uploads(options.clients, options.size, options.arrays, seed=0)
    median, mean = GeometricMedian(), Mean()
    work: dict[str, Callable[[], list[Arrays]]] = {
        "GeoMedian-ABM": lambda: list(median.leave_one_out(uploads)),
        "Mean-ABM": lambda: list(mean.leave_one_out(uploads)),
        "total minus own": lambda: subtract_from_total(uploads),
    }
    if not options.no_loop:
        work["loop per client"] = lambda: loop_per_client(uploads, median)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(options.repeats + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if repeat:  # the first pass warms up
                seconds[name].append(time.process_time() - start)
    cpu = {name: statistics.median(times) for name, times in seconds.items()}

    print(f"{options.clients} clients x {options.size} values in {options.arrays} arrays")
    for name, value in cpu.items():
        print(f"  {name:<16} {1000 * value:9.1f} ms CPU (least {1000 * min(seconds[name]):.1f})")
    print(f"GeoMedian-ABM / Mean-ABM         {cpu['GeoMedian-ABM'] / cpu['Mean-ABM']:8.2f}   goal <= 1.5")
    print(f"GeoMedian-ABM / total minus own  {cpu['GeoMedian-ABM'] / cpu['total minus own']:8.2f}")
    if not options.no_loop:
        speed_up = cpu["loop per client"] / cpu["GeoMedian-ABM"]
        print(f"loop per client / GeoMedian-ABM  {speed_up:8.2f}   goal >= 15")
        gap = relative_difference(work["GeoMedian-ABM"](), work["loop per client"]())
        print(f"relative difference to the loop  {gap:8.1e}")
    outputs = 4 * options.clients * options.size / 2**20
    peak = peak_memory(work["GeoMedian-ABM"]) / 2**20
    print(f"peak memory beside the uploads   {peak:8.1f} MiB, outputs alone {outputs:.1f} MiB")


if __name__ == "__main__":
    main()
