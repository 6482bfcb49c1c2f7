"""Final models whose answers say nothing of their prompts: a score can hide that, a warning does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedapp.core.types import CONSTANT_SCORE, EMPTY_SHARE, LOST_SHARE, SAME_SHARE
from fedapp.records.rows import ScoreRow

ROWS_TO_JUDGE_BY = 16
"""Below it a score is too often that of a constant answer by chance (ours)."""


def warnings_of(finals: Mapping[int, ScoreRow], metric: str | None) -> list[str]:
    """A line for each fault, with the clients whose final models have it.

    Args:
        finals: Of each client the row of its final model on test data.
        metric: The main one.
    """
    found: dict[str, list[int]] = {}
    for client, row in finals.items():
        if fault := fault_of(row, metric):
            found.setdefault(fault, []).append(client)
    lines = [f"{_name(clients, len(finals))}: {fault}" for fault, clients in found.items()]
    for client, row in finals.items():
        if (lost := row.metrics.get(LOST_SHARE, 0.0)) > 0:
            lines.append(
                f"client {client}: its model's tokenizer cannot write {100 * lost:.1f} % of the test "
                "targets, which no training reaches"
            )
    return lines


def fault_of(row: ScoreRow, metric: str | None) -> str | None:
    """How a final model's answers say nothing of their prompts; None where they do, or nobody can tell."""
    said = row.metrics
    if row.num_examples is None or not {SAME_SHARE, EMPTY_SHARE, CONSTANT_SCORE} <= set(said):
        return None
    if said[EMPTY_SHARE] >= 1:
        return "the final model gives an empty answer to every test row"
    # One row, or rows that all want the same answer: a constant answer is no fault.
    if row.num_examples < 2 or said[CONSTANT_SCORE] >= 1:
        return None
    if said[SAME_SHARE] >= 1:
        return "the final model gives the same answer to every test row"
    score = said.get(str(metric))
    if (
        row.num_examples >= ROWS_TO_JUDGE_BY
        and score is not None
        and abs(score - said[CONSTANT_SCORE]) < 1e-9
    ):
        return "the final score is exactly that of giving every test row the most frequent target"
    return None


def _name(clients: Sequence[int], of: int) -> str:
    if len(clients) == of > 1:
        return "all clients"
    return f"client{'s' * (len(clients) != 1)} {', '.join(map(str, clients))}"
