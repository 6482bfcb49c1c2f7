"""What a warm round costs on a client, against the local training that it contains.

A round is a message through the in-process grid: config, client memory, data, adapter swapped in,
training, upload packed. The bare training is the same model's ``train`` on the same examples.
Both are interleaved in one process; the figures are medians of CPU time.

    python perf/warm_round.py --repeats 15
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from flwr.app import Message

import client_app
from fedapp.client import workplace as workplaces
from fedapp.config.compose import load_config
from fedapp.core.payload import Payload
from fedapp.engines.grid import InProcessGrid, server_identity
from fedapp.wire.records import Envelope, pack, unpack


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides")
    arguments = parser.parse_args()
    score = ["score.base=false", "score.before=false", "score.after=false"]
    fixed = ["method=fedreft_fixed", *score, *arguments.overrides]
    config = load_config(fixed).to_json()
    with server_identity(1):
        grid = InProcessGrid(client_app.app, json.loads(config)["num_clients"], {})
        download = Payload()
        rounds: list[float] = []
        bare: list[float] = []
        first = None
        for repeat in range(arguments.repeats + 1):
            spent, download = one_round(grid, config, download, repeat + 1)
            place = workplaces.workplace(config, 0)
            examples = place.setup.data(0).train
            started = time.process_time()
            place.model.train(examples, np.random.default_rng(repeat))
            trained = time.process_time() - started
            if first is None:
                first = spent
                continue
            rounds.append(spent)
            bare.append(trained)
    ratio = statistics.median(a / b for a, b in zip(rounds, bare, strict=True))
    print(f"cold round {first:.3f} s CPU (base loaded, adapter attached, data read)")
    print(f"warm round {statistics.median(rounds):.3f} s, bare training {statistics.median(bare):.3f} s")
    print(f"warm round / bare training: {ratio:.3f} (goal <= 1.2)")


def one_round(grid: InProcessGrid, config: str, download: Payload, number: int) -> tuple[float, Payload]:
    """CPU seconds of one round of client 0, and what it sent."""
    facts = {"config": config, "client-id": 0, "server-round": number, "final": False}
    started = time.process_time()
    message = Message(pack(Envelope(facts, download)), grid.get_node_ids()[0], "train", group_id=str(number))
    (reply,) = grid.send_and_receive([message])
    envelope = unpack(reply.content)
    spent = time.process_time() - started
    if "failure" in envelope.facts:
        raise SystemExit(envelope.facts["failure"])
    return spent, envelope.payload


if __name__ == "__main__":
    main()
