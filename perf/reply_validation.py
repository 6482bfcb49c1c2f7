"""What it costs to check a client's reply, against unpacking it, for a reply of 10 million values.

Unpacking is what it takes from the bytes that arrived to arrays in memory: Flower's objects put together
again, the text parsed, every array copied out of the blob. Checking is what comes on top: counting the text
before it is parsed, ranges and names, and a look at every number while it is copied. Both are taken in turn,
in one process; the figure is the ratio of their least CPU times. A second figure is the same against
our own part of unpacking alone, which is one copy of the arrays.

    python perf/reply_validation.py --repeats 15
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedapp.core.payload import DTYPES, Payload
from fedapp.wire import limits
from fedapp.wire.messages import ClientSizes, Done, Row
from fedapp.wire.reading import read_done
from fedapp.wire.records import unpack


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--arrays", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16", "float64"])
    arguments = parser.parse_args()
    content = reply(arguments.values, arguments.arrays, arguments.dtype)
    objects = {name: part.deflate() for name, part in get_all_nested_objects(content).items()}
    name = content.object_id
    times: dict[str, list[float]] = {"inflate": [], "unpack": [], "read": []}
    for repeat in range(arguments.repeats + 1):
        times["inflate"].append(seconds(lambda: inflate_object_from_contents(name, dict(objects))))
        for kind in ("unpack", "read") if repeat % 2 else ("read", "unpack"):  # neither is always the second
            times[kind].append(read_seconds(content) if kind == "read" else unpack_seconds(content))
    inflate, bare, read = (min(taken[1:]) for taken in times.values())
    print(f"{arguments.values:,} values of {arguments.dtype} in {arguments.arrays} arrays")
    print(f"put together {1e3 * inflate:.1f} ms, unpacked {1e3 * bare:.1f} ms, read {1e3 * read:.1f} ms")
    print(f"checking / unpacking from bytes: {(read - bare) / (inflate + bare):.3f} (goal <= 0.05)")
    print(f"checking / unpacking by us alone: {(read - bare) / bare:.3f}")


def unpack_seconds(content: RecordDict) -> float:
    """Of unpacking without any check of what the values are or how many there are."""
    with mock.patch.object(limits, "_count", return_value=None):
        return seconds(lambda: unpack(content))


def read_seconds(content: RecordDict) -> float:
    """Of all that the server does to believe a reply."""
    return seconds(lambda: read_done(content, 0, 1, "train"))


def reply(values: int, count: int, dtype: str) -> RecordDict:
    """A training reply with that many numbers."""
    rng = np.random.default_rng(1)
    arrays = {f"layer.{n}": rng.standard_normal(values // count).astype(DTYPES[dtype]) for n in range(count)}
    row = Row("test", "own", "after", 20, {"loss": 1.0, "accuracy": 0.5})
    return Done(
        0,
        1,
        60,
        {"train-loss": 1.0},
        (row,) * 4,
        ClientSizes(60, 6, 20, values, ("t",)),
        1.0,
        upload=Payload(arrays),
    ).pack()


def seconds(work: Callable[[], object]) -> float:
    """Of CPU time; what the work made is let go of outside of it."""
    started = time.process_time()
    kept = work()
    spent = time.process_time() - started
    del kept
    return spent


if __name__ == "__main__":
    main()
