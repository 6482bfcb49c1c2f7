"""Which rounds' adapters are kept beside the last ones, and when a run has waited long enough."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fedapp.core.files import writing
from fedapp.records.rows import EVALUATED, ScoreRow, main_metric
from fedapp.records.summary import best_round


def evaluated_rounds(rows: Sequence[ScoreRow]) -> list[int]:
    """The rounds after which models were scored on validation data, in order."""
    return sorted({row.server_round for row in rows if row.split == "validation" and row.model in EVALUATED})


def best_so_far(rows: Sequence[ScoreRow]) -> int | None:
    """The evaluated round that is best on validation data, the earliest of equals; None before there is one.

    Args:
        rows: Scores of the clients that count.
    """
    rounds = evaluated_rounds(rows)
    metric = main_metric(sorted((row for row in rows if row.split != "train"), key=lambda row: row.split))
    found = best_round(rows, metric) if metric else None
    return found.server_round if found else (rounds[-1] if rounds else None)


def why_to_stop(rows: Sequence[ScoreRow], patience: int, now: str) -> str:
    """Why a run ends early: it was evaluated so often without being better; empty if it does not.

    Args:
        rows: Scores so far, of the clients that count.
        patience: How often that may be; 0: any number of times.
        now: Which round is behind it, of how many.
    """
    found = best_so_far(rows)
    waited = sum(found is not None and number > found for number in evaluated_rounds(rows))
    if not 0 < patience <= waited:
        return ""
    better = f"the validation score has not been better since round {found}"
    return f"ended after round {now}: {better} (patience={patience})"


def rounds_to_keep(
    rows: Sequence[ScoreRow], every: int, server_round: int, *, validated: bool, final: bool
) -> list[int]:
    """After which rounds adapters are kept.

    Args:
        rows: Scores so far, of the clients that count.
        every: Rounds between those that are kept whatever their scores; 0: none.
        server_round: The round under way.
        validated: Whether this evaluation scores on validation data, and so may be the best.
        final: Whether it is of the last round, whose adapters are kept as the final ones.
    """
    kept = set(range(every, server_round + 1, every)) if every else set()
    best = best_so_far(rows)
    kept |= {best} if best is not None else set()
    if final:
        return sorted(kept - {server_round})
    return sorted(kept | {server_round} if validated else kept)


def round_folder(folder: Path, server_round: int) -> Path:
    """Where the adapters of a round are kept, in the folder of the final one."""
    return folder / f"round-{server_round:06d}"


def prune_rounds(folder: Path, keep: Sequence[int]) -> None:
    """Remove the adapters of all other rounds.

    Raises:
        WriteError: If one cannot be removed.
    """
    kept = {round_folder(folder, server_round) for server_round in keep}
    for path in folder.glob("round-*"):
        if path not in kept:
            with writing(path):
                shutil.rmtree(path)
