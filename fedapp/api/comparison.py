"""``fedapp.compare``: finished runs as a data frame."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapp.api.results import Run
from fedapp.records.results import RunResult, read_finished

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("method", "adapter", "model", "benchmark", "partitioner")


def compare(paths: str | Path | Run | Iterable[str | Path | Run], metric: str | None = None) -> pd.DataFrame:
    """Finished runs side by side, a row for each; ``groupby`` puts seeds together.

    Args:
        paths: Run folders, folders with runs somewhere below, or runs.
        metric: What to compare by, such as ``"macro-f1"``; None for each benchmark's first metric.

    Returns:
        Choices (``method``, ``adapter``, …), ``seed``, ``metric``; ``mean`` and ``worst`` over clients and
        ``pooled`` over all test rows, as fractions; ``base``; ``parameters`` of a client; ``sent-bytes``,
        ``received-bytes``; ``seconds``; ``path``.

    Raises:
        ValueError: If a folder does not exist, or there is no finished run.
    """
    import pandas as pd

    several = [paths] if isinstance(paths, (str, Path, Run)) else list(paths)
    roots = [path.path if isinstance(path, Run) else Path(path).expanduser() for path in several]
    for root in roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist")
    found = [result for root in roots for result in read_finished(root, _warn, metric)]
    if not found:
        scored = f" with {metric} scores" if metric else ""
        raise ValueError(f"no finished run{scored} in {', '.join(map(str, roots))}")
    return pd.DataFrame([_row(result) for result in found])


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def _row(result: RunResult) -> dict[str, Any]:
    names = {group: (result.config.get(group) or {}).get("about", {}).get("name") for group in GROUPS}
    return {
        **names,
        "seed": result.seed,
        "metric": result.summary.metric,
        "mean": statistics.fmean(result.scores.values()),
        "worst": min(result.scores.values()),
        "pooled": result.pooled.score,
        "base": statistics.fmean(result.base.values()) if result.base else None,
        "parameters": max(result.parameters, default=None),
        "sent-bytes": result.summary.sent_bytes,
        "received-bytes": result.summary.received_bytes,
        "seconds": result.seconds,
        "path": str(result.folder),
    }
