"""What a server of many parties needs, from pieces that are measured here; and a simulation to check them.

    python perf/scale.py rules     --clients 1000 --values 4194816
    python perf/scale.py messages  --values 4194816
    python perf/scale.py simulate  --clients 1000 [--rounds 2] [--size 1024] [method=fedreft …]

``rules`` times every rule on as many uploads as there are clients, of few values each, and says what the
values of a real adapter would take: at a given number of uploads a rule's time grows with their length.
``messages`` times what a server does with one upload and one download whatever the rule. ``simulate`` runs
the real server half against toy clients in this process, few of them first: what a message costs there,
the rule on its own and ``fedapp budget`` predict bytes and seconds of the run with many, which follows. What
the rule takes there is told apart: a geometric median takes as many iterations as the uploads ask for.
Seconds are of processor time (one thread), without those that the clients spend.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # read once, when NumPy loads its BLAS

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import deque  # noqa: E402
from collections.abc import Callable, Iterable, Iterator, Sequence  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import wraps  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents  # noqa: E402
from reply_validation import seconds  # noqa: E402

import client_app  # noqa: E402
import server_app  # noqa: E402
from fedapp.aggregation import GeometricMedian, Mean, low_rank  # noqa: E402
from fedapp.aggregation.median import CoordinateMedian  # noqa: E402
from fedapp.client import workplace as workplaces  # noqa: E402
from fedapp.config.compose import load_config  # noqa: E402
from fedapp.core.method import Moment  # noqa: E402
from fedapp.core.payload import Payload, Upload  # noqa: E402
from fedapp.core.types import Arrays  # noqa: E402
from fedapp.engines.grid import run_local  # noqa: E402
from fedapp.planning.budget import budget_of  # noqa: E402
from fedapp.server.strategy import build_strategy  # noqa: E402
from fedapp.wire.messages import ClientSizes, Done, Work  # noqa: E402
from fedapp.wire.reading import read_done  # noqa: E402

VALUES = (8_000_000, 40_000_000)  # of all uploads together in `rules`; the first take new memory
WIDTH = 512  # of the layer whose low-rank updates are combined in `rules`
FEW = 50  # clients of the small simulation that predicts the large one
GIGA = 1e9
TOY = ["model=toy", "benchmark=toy", "join_timeout=3600", "save_adapters=false"]
QUIET = [f"score.{name}=false" for name in ("base", "before", "after")]


def least(work: Callable[[], object], repeats: int) -> float:
    """The least of some runs' processor seconds."""
    return min(seconds(work) for _ in range(repeats))


def plain(clients: int, values: int) -> list[Arrays]:
    """A common start plus each client's own change, fp32."""
    rng = np.random.default_rng(1)
    start = rng.standard_normal(values, dtype=np.float32)
    return [
        {"w": start + np.float32(0.05) * rng.standard_normal(values, dtype=np.float32)}
        for _ in range(clients)
    ]


def factors(clients: int, values: int) -> list[Arrays]:
    """Rank-1 updates of some layers that hold about as many values together."""
    rng = np.random.default_rng(1)
    names = [f"layer.{n}" for n in range(max(1, values // (2 * WIDTH)))]
    draw = rng.standard_normal
    return [
        {n + low_rank.A: draw((1, WIDTH), np.float32) for n in names}
        | {n + low_rank.B: draw((WIDTH, 1), np.float32) for n in names}
        for _ in range(clients)
    ]


def through(results: Iterable[Arrays]) -> None:
    """Ask for each, keep none, as a server does that writes each down."""
    deque(results, maxlen=0)


Maker = Callable[[int, int], list[Arrays]]
RULES: dict[str, tuple[Maker, Callable[[list[Arrays]], object]]] = {
    "mean (FedAvg, FedIT, FFA, FedSA)": (plain, lambda u: Mean().combine(u)),
    "median of each value (FedMedian)": (plain, lambda u: CoordinateMedian().combine(u)),
    "geometric median": (plain, lambda u: GeometricMedian().combine(u)),
    "mean, all but one (Mean-ABM)": (plain, lambda u: through(Mean().leave_one_out(u))),
    "geometric median, all but one (FedReFT)": (plain, lambda u: through(GeometricMedian().leave_one_out(u))),
    "factors stacked (FLoRA)": (factors, lambda u: low_rank.stack(u, [1.0] * len(u))),
    "mean and residual (FedEx-LoRA)": (factors, lambda u: low_rank.mean_and_residual(u, [1.0] * len(u))),
}


def show_rules(clients: int, values: int, repeats: int) -> None:
    """Seconds of every rule for so many uploads, from two short lengths to the one asked for."""
    print(f"{clients} uploads, processor seconds; at {values:,} values by the slope between the lengths")
    lengths = [count // clients for count in VALUES]
    print(f"{'':<40} {lengths[0]:>8,} {lengths[1]:>8,} {'a million':>10} {values:>11,}")
    for name, (make, rule) in RULES.items():
        taken, sizes = [], []
        for length in lengths:
            uploads = make(clients, length)
            sizes.append(sum(array.size for array in uploads[0].values()))
            taken.append(least(lambda: rule(uploads), repeats))  # noqa: B023
        slope = (taken[1] - taken[0]) / (sizes[1] - sizes[0])
        whole = taken[1] + slope * (values - sizes[1])
        print(f"{name:<40} {taken[0]:8.2f} {taken[1]:8.2f} {1e6 * slope:10.2f} {whole:11.1f}", flush=True)


def show_messages(values: int, repeats: int) -> None:
    """Seconds of one upload and of one download, beside the rule."""
    print(f"one message of {values:,} fp32 values ({4 * values / 1e6:.1f} MB), processor seconds")
    upload = {"w": np.random.default_rng(1).standard_normal(values, dtype=np.float32)}
    done = Done(0, 1, 60, {}, (), ClientSizes(60, 6, 20, values, ("t",)), 1.0, upload=Payload(upload)).pack()
    objects = {name: part.deflate() for name, part in get_all_nested_objects(done).items()}
    name = done.object_id
    put = least(lambda: inflate_object_from_contents(name, dict(objects)), repeats)
    read = least(lambda: read_done(done, 0, 1, "train"), repeats)
    print(f"  upload: put together by Flower {put:.3f}, read and checked {read:.3f}")
    work = Work("{}", 0, 1, "train", None, False, Payload(upload))
    packed = least(work.pack, repeats)
    content = work.pack()
    cut = least(lambda: [p.deflate() for p in get_all_nested_objects(content).values()], repeats)
    print(f"  download: packed {packed:.3f}, cut into Flower's objects and hashed {cut:.3f}")


class TimedClients:
    """The client app, and the processor seconds spent in it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.messages = 0

    def __call__(self, message, context):  # type: ignore[no-untyped-def]
        started = time.process_time()
        try:
            return client_app.app(message, context)
        finally:
            self.seconds += time.process_time() - started
            self.messages += 1


class TimedRule:
    """The processor seconds that a strategy spends on what it makes of uploads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    @contextmanager
    def watching(self, strategy: type) -> Iterator[None]:
        """While open, the class's methods that may call its rule are timed."""
        names = ("aggregate", "shared", "download")
        kept = {name: getattr(strategy, name) for name in names}
        for name, method in kept.items():
            setattr(strategy, name, self._timed(method))
        try:
            yield
        finally:
            for name, method in kept.items():
                setattr(strategy, name, method)

    def _timed(self, method: Callable[..., object]) -> Callable[..., object]:
        @wraps(method)
        def timed(*args: object, **kwargs: object) -> object:
            if self._inside:  # one of them calls another
                return method(*args, **kwargs)
            started, self._inside = time.process_time(), True
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds += time.process_time() - started

        return timed


@dataclass(frozen=True)
class Measured:
    """A simulated run, without what its clients did.

    Attributes:
        messages: Sent to clients, joining included.
        seconds: Of the server and the transport, without the rule.
        rule_seconds: Of the rule.
        client_seconds: Of the clients.
        up, down: Payload bytes.
        peak: Resident bytes at most, of the process.
    """

    messages: int
    seconds: float
    rule_seconds: float
    client_seconds: float
    up: int
    down: int
    peak: int


def words(clients: int, rounds: int, size: int, overrides: Sequence[str]) -> list[str]:
    """Overrides of a run with toy clients."""
    adapter = [] if any(word.startswith("adapter=") for word in overrides) else ["adapter=toy"]
    rows = [f"benchmark.num_train={12 * clients}", f"benchmark.num_test={4 * clients}"]
    counted = [f"num_clients={clients}", f"num_rounds={rounds}", f"adapter.size={size}"]
    return [*TOY, *QUIET, *adapter, *rows, *counted, *overrides]


def simulate(settings: Sequence[str], clients: int) -> Measured:
    """One run in this process."""
    timed, rule = TimedClients(), TimedRule()
    strategy = type(build_strategy(load_config(list(settings))))
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        overrides = shlex.join([*settings, f"run_dir={run_dir}"])
        started = time.process_time()
        try:
            with open(Path(folder) / "log.txt", "w") as log:
                kept, sys.stdout = sys.stdout, log
                try:
                    with rule.watching(strategy):
                        run_local(
                            server_app.app, timed, num_nodes=clients, run_config={"overrides": overrides}
                        )
                finally:
                    sys.stdout = kept
        finally:
            workplaces.close()
        spent = time.process_time() - started
        rows = [json.loads(line) for line in (run_dir / "traffic.jsonl").read_text().splitlines()]
    way = {kind: sum(r["payload-bytes"] for r in rows if r["direction"] == kind) for kind in ("up", "down")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    own = spent - timed.seconds - rule.seconds
    return Measured(timed.messages, own, rule.seconds, timed.seconds, way["up"], way["down"], peak)


def rule_seconds(settings: Sequence[str], clients: int, rounds: int) -> float:
    """Of what a strategy makes of so many uploads, all rounds together, without any message."""
    config = load_config(list(settings))
    shapes = budget_of(config).trained[0].shapes
    rng = np.random.default_rng(1)
    start = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    uploads = [
        Upload(
            {n: (v + 0.05 * rng.standard_normal(v.shape)).astype(np.float32) for n, v in start.items()},
            client_id=client,
            num_examples=10,
        )
        for client in range(clients)
    ]
    strategy = build_strategy(config)
    strategy.aggregate(1, uploads, [])
    spent = least(lambda: strategy.aggregate(2, uploads, []), 2)
    asked = Moment(2, "train")
    return rounds * (spent + seconds(lambda: [strategy.download(client, asked) for client in range(clients)]))


def show_simulation(clients: int, rounds: int, size: int, overrides: Sequence[str]) -> bool:
    """Predicted against measured; whether the bytes are the same."""
    small, large = (words(count, rounds, size, overrides) for count in (FEW, clients))
    expected = budget_of(load_config(large))
    simulate(small, FEW)  # what is imported and compiled once counts for neither
    few = simulate(small, FEW)
    each = few.seconds / few.messages
    ruled = rule_seconds(large, clients, rounds)
    many = simulate(large, clients)
    print(f"{clients} toy clients, {rounds} rounds, uploads of {4 * expected.up_values[0]:,} bytes")
    print(f"  {'':<24} {'predicted':>16} {'measured':>16}   measured / predicted")
    for name, guess, found in (
        ("bytes up", expected.run_up_bytes, many.up),
        ("bytes down", expected.run_down_bytes, many.down),
    ):
        print(f"  {name:<24} {guess:16,} {found:16,}   {found / guess if guess else 1:.6f}")
    for name, wanted, took in (
        ("seconds for messages", each * many.messages, many.seconds),
        ("seconds in the rule", ruled, many.rule_seconds),
    ):
        print(f"  {name:<24} {wanted:16.2f} {took:16.2f}   {took / wanted:.2f}")
    print(
        f"  predicted: {many.messages:,} messages of {1e3 * each:.2f} ms each, as with {FEW} clients; "
        "the rule on uploads drawn around one point"
    )
    print(f"  the clients' own work took {many.client_seconds:.1f} s")
    more = many.peak - few.peak
    uploads = (clients - FEW) * 4 * expected.up_values[0]
    print(
        f"  resident memory {few.peak / GIGA:.2f} GB with {FEW}, {many.peak / GIGA:.2f} GB with {clients}: "
        f"{more / (clients - FEW) / 1024:.0f} KiB a client, {more / uploads:.1f} uploads"
    )
    return (many.up, many.down) == (expected.run_up_bytes, expected.run_down_bytes)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["rules", "messages", "simulate"])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--values", type=int, default=4_194_816, help="of a real upload (fedapp budget)")
    parser.add_argument("--rounds", type=int, default=2, help="of the simulation")
    parser.add_argument("--size", type=int, default=1024, help="entries of each of the toy adapter's vectors")
    parser.add_argument("--repeats", type=int, default=2, help="timed passes; the least counts")
    parser.add_argument("overrides", nargs="*", help="of the simulation (method=fedavg)")
    options = parser.parse_intermixed_args()
    if options.what == "rules":
        show_rules(options.clients, options.values, options.repeats)
    elif options.what == "messages":
        show_messages(options.values, options.repeats)
    else:
        return int(not show_simulation(options.clients, options.rounds, options.size, options.overrides))
    return 0


if __name__ == "__main__":
    sys.exit(main())
