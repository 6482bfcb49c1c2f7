"""Inject faults into federations of toy clients and print what became of each.

    python perf/faults.py                      # all
    python perf/faults.py reply party          # those whose name holds one of the words

*In process* is the in-process grid, whose network loses, repeats, reorders and changes replies.
*Deployed* is a SuperLink and three SuperNodes of this machine's own, started anew for each fault,
without TLS. A round is lost to a client if none of what it sent in it was used. Recovery is the
time from the fault until the round in which it happened is over; what that takes without a fault
stands in the first deployed line.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from deployed_faults import DEPLOYED, PARTIES, TOY, VICTIM, Outcome, deployed, read
from flwr.app import Message

import client_app
import server_app
from fedapp.client import workplace as workplaces
from fedapp.core.payload import Payload
from fedapp.engines.grid import Network, run_local
from fedapp.wire.records import Envelope, pack, unpack


def in_round_2(change: Callable[[Message], Message]) -> Callable[[int, Message], Message]:
    """A network that changes the victim's reply of round 2."""

    def tamper(client_id: int, reply: Message) -> Message:
        meant = client_id == VICTIM and reply.metadata.message_type == "train"
        return change(reply) if meant and reply.metadata.group_id == "2" else reply

    return tamper


def with_arrays(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Message], Message]:
    def changed(reply: Message) -> Message:
        envelope = unpack(reply.content)
        reply.content.clear()
        payload = Payload(change(dict(envelope.payload.arrays)), envelope.payload.texts)
        reply.content.update(pack(Envelope(envelope.facts, payload)))
        return reply

    return changed


def emptied(reply: Message) -> Message:
    reply.content.clear()
    return reply


def lost_in_round_2(client_id: int, request: Message) -> bool:
    return (client_id, request.metadata.message_type, request.metadata.group_id) == (VICTIM, "train", "2")


NETWORKS = {
    "no fault": Network(),
    "a reply is lost": Network(drop=lost_in_round_2),
    "replies arrive twice, the last first": Network(reverse=True, repeat=lambda client, request: True),
    "a reply of values that are not numbers": Network(
        tamper=in_round_2(with_arrays(lambda a: {n: np.full_like(v, np.nan) for n, v in a.items()}))
    ),
    "a reply of other shapes": Network(
        tamper=in_round_2(with_arrays(lambda a: {n: np.append(v, v) for n, v in a.items()}))
    ),
    "a reply that is no message": Network(tamper=in_round_2(emptied)),
}


def in_process(name: str, folder: Path) -> Outcome:
    """A run on the in-process grid."""
    run_dir = folder / "run"
    overrides = shlex.join([*TOY, "engine=local", "round_timeout=3", f"run_dir={run_dir}"])
    config = {"overrides": overrides}
    try:
        with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            run_local(
                server_app.app, client_app.app, num_nodes=PARTIES, run_config=config, network=NETWORKS[name]
            )
    finally:
        workplaces.close()
    return read(run_dir)


def main() -> None:
    """Inject and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only faults whose name holds one of them")
    options = parser.parse_args()
    ways = (("in process", NETWORKS, in_process), ("deployed", DEPLOYED, deployed))
    print(f"{'':<50} {'run':<10} {'lost':>4} {'recovery':>9}")
    for way, faults, play in ways:
        for name in faults:
            if options.words and not any(word in name for word in options.words):
                continue
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                outcome = play(name, Path(folder))
            took = "" if outcome.recovery is None else f"{outcome.recovery:7.1f} s"
            print(f"{way + ': ' + name:<50} {outcome.status:<10} {outcome.lost:>4} {took:>9}")
            if outcome.said:
                print(f"    {outcome.said[:150]}", flush=True)


if __name__ == "__main__":
    main()
