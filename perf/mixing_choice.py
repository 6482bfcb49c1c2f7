"""Does adaptive mixing within its budget choose what it would choose on all validation rows?

A federation is played in this process with the full search. Each time a client mixes, the loss of every
candidate on every validation row is written down. Then the rule of the config, with its budget, chooses again
on these recordings, in several orders of the rows.

    python perf/mixing_choice.py --save minilm_sst2.npz model=minilm benchmark=glue_sst2 ...
    python perf/mixing_choice.py --from minilm_sst2.npz embedded.npz
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedapp.aggregation import interpolate
from fedapp.client import workplace as workplaces
from fedapp.config.build import build
from fedapp.config.compose import load_config
from fedapp.core.method import Moment
from fedapp.core.payload import Upload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, Example
from fedapp.methods.mixing import AdaptiveMixing

CANDIDATES = AdaptiveMixing().candidates
ORDERS = 20


@dataclasses.dataclass
class Recorder:
    """Mixes by the full search and keeps what it saw.

    Attributes:
        seen: One table of losses ``[num_candidates, num_rows]`` a call, nats per row.
        trained: Rows that the training after each call passes.
    """

    seen: list[np.ndarray] = dataclasses.field(default_factory=list)
    trained: list[int] = dataclasses.field(default_factory=list)
    needs_validation: ClassVar[bool] = True

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """The candidate with the least mean loss; ties go to the larger share of the own part."""
        table = []
        for weight in CANDIDATES:
            session.model.load(interpolate(own, received, weight))
            table.append([session.model.loss([row]) for row in session.val_set])
        self.seen.append(np.array(table))
        self.trained.append(session.trained_rows)
        best = least(self.seen[-1].mean(axis=1))
        return interpolate(own, received, best), best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", type=Path, help="file for the recordings")
    parser.add_argument("--from", dest="files", nargs="*", type=Path, default=[], help="recordings")
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.1, 0.25, 0.5])
    parser.add_argument("overrides", nargs="*", help="Hydra overrides")
    arguments = parser.parse_args()
    if arguments.save:
        tables, trained = record(arguments.overrides)
        np.savez_compressed(arguments.save, trained=trained, **{f"t{i}": t for i, t in enumerate(tables)})
    for file in [arguments.save] if arguments.save else arguments.files:
        with np.load(file) as stored:
            tables = [stored[f"t{index}"] for index in range(len(stored["trained"]))]
            report(file.stem, tables, stored["trained"].tolist(), arguments.budgets)


def record(overrides: Sequence[str]) -> tuple[list[np.ndarray], list[int]]:
    """Play a federation; see ``Recorder``."""
    config = load_config(["method=fedreft", *overrides])
    place = workplaces.workplace(config.to_json(), 0)
    recorder = Recorder()
    routine: Any = dataclasses.replace(place.setup.routine, mixing=recorder)
    strategy = build(config["method"]["strategy"], "method.strategy")
    memory: dict[int, Arrays] = {client: {} for client in range(config.run.num_clients)}
    for server_round in range(1, config.run.num_rounds + 1):
        uploads = []
        for client, state in memory.items():
            session = place.session(client, server_round, state, "train")
            payload, _ = routine.train(strategy.download(client, Moment(server_round)), session)
            size = len(session.train_set)
            uploads.append(Upload(arrays=payload.arrays, client_id=client, num_examples=size))
        strategy.aggregate(server_round, uploads, [])
        print(f"round {server_round}: {len(recorder.seen)} choices", flush=True)
    return recorder.seen, recorder.trained


class Replay:
    """A model whose parameter is the weight of the mix and whose losses are a recording's."""

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.looks, self.weight = table, 0, 0.0

    def load(self, parameters: Arrays) -> None:
        """Take the weight over."""
        self.weight = float(parameters["weight"][0])

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean of the recorded losses; an example's label is its row."""
        rows = [int(example.label or 0) for example in examples]
        self.looks += len(rows)
        return float(self.table[CANDIDATES.index(self.weight), rows].mean())


def report(name: str, tables: Sequence[np.ndarray], trained: Sequence[int], budgets: Sequence[float]) -> None:
    """Print how often the choice is the full search's, what else costs, and the rows looked at."""
    shape = tables[0].shape
    print(f"{name}: {len(tables)} choices of {shape[0]} weights, {shape[1]} rows, {trained[0]} trained")
    chosen = [least(table.mean(axis=1)) for table in tables]
    print("  full search:", {weight: chosen.count(weight) for weight in CANDIDATES})
    for budget in budgets:
        same, near, lost, looks = [], [], [], []
        for table, passes, best in zip(tables, trained, chosen, strict=True):
            means = table.mean(axis=1)
            for seed in range(ORDERS):
                found, looked = replay(table, passes, budget, seed)
                excess = means[CANDIDATES.index(found)] - means.min()
                same.append(found == best)
                near.append(found == best or excess <= 0.01 * means.min())
                lost.append(excess / max(means.max() - means.min(), 1e-12))
                looks.append(looked / (3 * passes))
        print(
            f"  budget {budget}: same {np.mean(same):.1%}, within 1 % of the least loss {np.mean(near):.1%}, "
            f"regret {np.mean(lost):.2%} of the range, cost {np.mean(looks):.3f} of training"
        )


def replay(table: np.ndarray, passes: int, budget: float, seed: int) -> tuple[float, int]:
    """Let the rule choose on a recording; returns the weight and the forward rows looked at."""
    model: Any = Replay(table)
    rows = [Example("", "", "", index) for index in range(table.shape[1])]
    session = ClientSession(0, 1, model, rows[:1] * passes, rows, [], {}, np.random.default_rng(seed))
    rule = AdaptiveMixing(budget=budget)
    own, received = ({"weight": np.full(1, value, np.float32)} for value in (1.0, 0.0))
    return rule.mix(own, received, session)[1], model.looks


def least(costs: np.ndarray) -> float:
    """The weight of least cost; of equal ones the largest."""
    return min((cost, -weight) for cost, weight in zip(costs, CANDIDATES, strict=True))[1] * -1


if __name__ == "__main__":
    main()
