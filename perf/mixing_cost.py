"""What adaptive mixing costs a client, against the local training that follows it.

One client's parameters after training are mixed with another's, over the candidates of the method's
config, on the client's validation rows; then it trains for a round. Both are interleaved in one
process; the figures are medians of CPU time.

    python perf/mixing_cost.py --repeats 15
"""

from __future__ import annotations

import argparse
import statistics
import time

from fedapp.client import workplace as workplaces
from fedapp.config.compose import load_config
from fedapp.core.payload import Payload
from fedapp.core.types import Arrays

GOAL = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides")
    arguments = parser.parse_args()
    config = load_config(["method=fedreft", *arguments.overrides])
    place = workplaces.workplace(config.to_json(), 0)
    own, received = trained(place, 0), trained(place, 1)
    mixing: list[float] = []
    training: list[float] = []
    for repeat in range(arguments.repeats + 1):
        session = place.session(0, 2 + repeat, {}, "train")
        started = time.process_time()
        mixed, _ = place.setup.routine.mixing.mix(own, received, session)
        chosen = time.process_time()
        session.model.load(mixed)
        begun = time.process_time()
        session.model.train(session.train_set, session.rng)
        if repeat:  # the first one warms up
            mixing.append(chosen - started)
            training.append(time.process_time() - begun)
    ratio = statistics.median(a / b for a, b in zip(mixing, training, strict=True))
    rule, rows = place.setup.routine.mixing, (len(session.train_set), len(session.val_set))
    print(f"{rule}")
    print(f"{rows[0]} training rows x {place.setup.train.num_epochs} epochs, {rows[1]} validation rows")
    print(f"mixing {statistics.median(mixing):.3f} s CPU, training {statistics.median(training):.3f} s")
    print(f"mixing / training: {ratio:.3f} (goal <= {GOAL})")


def trained(place: workplaces.Workplace, client_id: int) -> Arrays:
    """What a client would send in the first round."""
    payload, _ = place.setup.routine.train(Payload(), place.session(client_id, 1, {}, "train"))
    return dict(payload.arrays)


if __name__ == "__main__":
    main()
