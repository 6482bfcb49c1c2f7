"""Small files of results, kept with the code: a JSON line a run, without places and names of hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedapp.config.overrides import key_of
from fedapp.config.run import OF_PLACE
from fedapp.core.files import write_atomically
from fedapp.core.types import JUDGED
from fedapp.records.results import RunResult
from fedapp.records.rows import ScoreRow

NAMED = ("method", "adapter", "model", "benchmark", "partitioner", "hostile")
"""Groups of ``conf/`` whose choices a result names."""
NOT_KEPT = OF_PLACE | {"seed"}
"""Overrides that say nothing of how a result comes about; the seed stands by itself."""
_PLACE = re.compile(r"(?<![\w.])[~/][^\s,'\"\[\]{}]*/([^\s,'\"\[\]{}/]+)/?|[A-Z]:\\[^\s,'\"]+")


@dataclass(frozen=True)
class ResultRecord:
    """What is kept of a run.

    Attributes:
        overrides: Its settings, without seed and folders; of a place on the machine only its last name.
        names: Its choices, by group of ``conf/``.
        settings: The numbers that a table tells: clients, rounds, step size, …
        seed: Its seed.
        metric: What its tables show unless they name another.
        answering: By which rule its models answer.
        commit, processor, python, versions, dtype: What it ran with.
        seconds: Wall time.
        cpu_seconds: Processor time of all clients; None where it is not known.
        sent_bytes, received_bytes: Payload of all clients in all rounds.
        parameters: How many numbers each client trains.
        base: The metric of the base model, by client.
        rows: Of each honest client's final model on its test split.
    """

    overrides: tuple[str, ...]
    names: Mapping[str, str]
    settings: Mapping[str, Any]
    seed: int
    metric: str
    answering: str
    commit: str | None
    processor: str
    python: str
    versions: Mapping[str, str | None]
    dtype: str
    seconds: float
    cpu_seconds: float | None
    sent_bytes: int
    received_bytes: int
    parameters: tuple[int, ...]
    base: Mapping[str, float]
    rows: tuple[ScoreRow, ...]

    @classmethod
    def of(cls, run: RunResult, about: Mapping[str, Any]) -> ResultRecord:
        """Take from a run what is kept of it.

        Args:
            run: As it was read.
            about: Its run.json.

        Raises:
            ValueError: If run.json does not say by which overrides the run was started.
        """
        if "overrides" not in about:
            raise ValueError(f"{run.folder}: run.json holds no overrides, by which the run could be repeated")
        config, train = run.config, run.config.get("train") or {}
        return cls(
            overrides=kept_overrides(about["overrides"]),
            names=names_of(config),
            settings={
                "num-clients": config.get("num_clients"),
                "num-rounds": config.get("num_rounds"),
                "step-size": train.get("learning_rate"),
            },
            seed=run.seed,
            metric=str(run.summary.metric),
            answering=run.answering,
            commit=about.get("git-sha"),
            processor=str(about.get("processor") or about.get("machine")),
            python=str(about.get("python")),
            versions={name: version for name, version in about.get("versions", {}).items() if version},
            dtype=str(
                (about.get("auto") or {}).get("dtype")
                or (config.get("model") or {}).get("dtype")
                or "float32"
            ),
            seconds=round(run.seconds, 1),
            cpu_seconds=None if run.cpu_seconds is None else round(run.cpu_seconds, 1),
            sent_bytes=run.summary.sent_bytes,
            received_bytes=run.summary.received_bytes,
            parameters=tuple(run.parameters),
            base={str(client): round(score, 9) for client, score in run.base.items()},
            rows=tuple(map(_kept_row, run.summary.final_rows)),
        )

    @classmethod
    def from_json(cls, facts: Any) -> ResultRecord:
        """Read a line of a result file; KeyError, TypeError or ValueError if it is none."""
        named = {name: facts[name.replace("_", "-")] for name in cls.__dataclass_fields__}
        named["rows"] = tuple(map(ScoreRow.from_json, named["rows"]))
        named["overrides"] = tuple(map(_spelled, named["overrides"]))
        named["parameters"] = tuple(named["parameters"])
        return cls(**named)

    def to_json(self) -> dict[str, Any]:
        """As a line of a result file holds it."""
        facts = {name.replace("_", "-"): value for name, value in asdict(self).items()}
        return {**facts, "rows": [row.to_json() for row in self.rows]}

    @property
    def key(self) -> tuple[tuple[str, ...], int]:
        """Which run it is: a later one with the same key takes its place."""
        return self.overrides, self.seed


def names_of(config: Mapping[str, Any]) -> dict[str, str]:
    """A config's choices, by group of ``conf/``."""
    return {group: str((config.get(group) or {}).get("about", {}).get("name")) for group in NAMED}


def kept_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides as they may be told: without seed and folders of runs, of any place only the last name.

    ``False``, as a sweep writes it, and ``false``, as people do, are one setting.
    """
    kept = [_spelled(word) for word in overrides if key_of(word) not in NOT_KEPT]
    return tuple(sorted(_PLACE.sub(lambda found: f".../{found[1] or 'file'}", word) for word in kept))


def _spelled(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}{equals}{value.lower() if value.lower() in ('true', 'false') else value}"


def read_records(path: Path) -> list[ResultRecord]:
    """All results of a file, in its order.

    Raises:
        ValueError: If it cannot be read, or a line is no result; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(ResultRecord.from_json(json.loads(line)))
        except KeyError as error:
            raise ValueError(f"{path}, line {number}, is no result: {error.args[0]!r} is missing") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}, is no result: {error}") from None
    return found


def add_records(path: Path, records: Sequence[ResultRecord]) -> int:
    """Put results into a file, each in the place of an older one of the same settings and seed.

    Returns:
        How many the file holds then.

    Raises:
        ValueError: If the file holds something else.
        WriteError: If it cannot be written; it is left as it was.
    """
    kept = {record.key: record for record in (read_records(path) if path.exists() else [])}
    kept |= {record.key: record for record in records}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(kept[key].to_json()) + "\n" for key in sorted(kept)]
    write_atomically(path, "".join(lines))
    return len(kept)


def _kept_row(row: ScoreRow) -> ScoreRow:
    """A row without what no table tells, to nine decimals."""
    scores = {name: round(value, 9) for name, value in row.metrics.items() if name not in JUDGED}
    about = (row.server_round, row.client_id, row.split, row.model, row.moment, row.num_examples)
    return ScoreRow(*about, scores, row.counts, row.digest)
