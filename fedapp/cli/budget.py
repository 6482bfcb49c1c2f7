"""``fedapp budget``: parameters and bytes of one or more configurations, as a table or as JSON."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from fedapp.cli.output import OK, USAGE, complain, warn
from fedapp.config.build import ConfigError, about
from fedapp.config.compose import load_config
from fedapp.config.overrides import refuse_hydra
from fedapp.core.method import AnswerSizes
from fedapp.planning.budget import Budget, budget_of
from fedapp.records.table import print_notes, print_table

# Heading and key of each column; `up` and `down` are bytes.
COLUMNS = (
    ("adapter", "adapter-parameters"),
    ("head", "head-parameters"),
    ("% of base", "percent-of-base"),
    ("up: a client,\na round", "upload-bytes"),
    ("down: a client,\na round", "download-bytes"),
    ("up: all,\na round", "round-upload-bytes"),
    ("down: all,\na round", "round-download-bytes"),
    ("up: the run", "run-upload-bytes"),
    ("down: the run", "run-download-bytes"),
)


def budget(
    overrides: Sequence[str], stream: TextIO, *, as_json: bool = False, answers: AnswerSizes | None = None
) -> int:
    """Print the budget of every combination of the overrides.

    Args:
        overrides: Hydra overrides; ``KEY=A,B`` gives a row for each.
        stream: Where to print.
        as_json: A JSON object per line instead of a table.
        answers: What to assume of answers, for methods whose clients send these.

    Returns:
        0, or 2 if a configuration cannot be used.
    """
    try:
        rows = budget_rows(overrides, answers or AnswerSizes())
    except ConfigError as error:
        complain(str(error))
        return USAGE
    for text in dict.fromkeys(text for row in rows for text in row["warnings"]):
        warn(text)
    if as_json:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows)
    else:
        _print_table(rows, stream, answers or AnswerSizes())
    return OK


def budget_rows(overrides: Sequence[str], answers: AnswerSizes | None = None) -> list[dict[str, Any]]:
    """A row of plain values for every combination; clients that differ are summed up by their range.

    Raises:
        ConfigError: If a configuration cannot be used; the message names the combination.
    """
    from fedapp.config.sweep import chosen_words, combinations, naming, of_experiment

    refuse_hydra(overrides)
    overrides = [*of_experiment(overrides), *overrides]
    rows = []
    for words in combinations(overrides):
        chosen = chosen_words(words, overrides)
        try:
            config = load_config(words)
            with contextlib.redirect_stderr(io.StringIO()):  # libraries that remark on what they import
                found = budget_of(config, answers)
        except ConfigError as error:
            raise naming(error, chosen) from None
        label = " ".join(chosen) or f"method={about(config['method'], 'name')}"
        rows.append({"configuration": label, **_facts(config), **_numbers(found)})
    return rows


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {group: about(config[group], "name") for group in ("method", "adapter", "model")}
    return {**names, "num-clients": config["num_clients"], "num-rounds": config["num_rounds"]}


def _numbers(found: Budget) -> dict[str, Any]:
    """Kebab-case facts of a budget; of values that differ between clients, a [least, most] pair."""
    bases = [trained.base for trained in found.trained]
    shares = [
        None if trained.base is None else 100 * trained.adapter / trained.base for trained in found.trained
    ]
    return {
        "base-parameters": _span(bases),
        "adapter-parameters": _span([trained.adapter for trained in found.trained]),
        "head-parameters": _span([trained.head for trained in found.trained]),
        "percent-of-base": _span(shares),
        "upload-parameters": _span(found.up_values),
        "download-parameters": _span(found.down_values),
        "upload-bytes": _span(found.up_bytes),
        "download-bytes": _span(found.down_bytes),
        "round-upload-bytes": sum(found.up_bytes),
        "round-download-bytes": sum(found.down_bytes),
        "run-upload-bytes": found.run_up_bytes,
        "run-download-bytes": found.run_down_bytes,
        "exact": found.exact,
        "texts": found.texts,
        "warnings": list(found.warnings),
    }


def _span(values: Sequence[Any]) -> Any:
    """The value that all have in common, else the least and the most."""
    if len(set(values)) == 1:
        return values[0]
    known = [value for value in values if value is not None]
    return [min(known), max(known)]


def _print_table(rows: Sequence[Mapping[str, Any]], stream: TextIO, answers: AnswerSizes) -> None:
    columns = ("configuration", *(heading for heading, _ in COLUMNS))
    cells = [[row["configuration"], *(_shown(row[key]) for _, key in COLUMNS)] for row in rows]
    print_table(columns, cells, stream, left=("configuration",))
    print_notes([*_notes(rows), *_of_answers(rows, answers)], stream)


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    bases = [
        f"{row['model'] or 'model'}: {_shown(row['base-parameters'])} frozen parameters"
        for row in rows
        if row["base-parameters"] is not None
    ]
    sizes = [f"{row['num-clients']} clients, {row['num-rounds']} rounds" for row in rows]
    notes = ["; ".join(dict.fromkeys([*bases, *sizes]))]
    notes.append(
        "bytes of payload values; the first round's download is empty, and after the last one every "
        "client gets one more to be evaluated"
    )
    if not all(row["exact"] for row in rows):
        notes.append(
            "not every client takes part in every round: one that missed a round is counted as if it "
            "had not; methods that send it more then cost more"
        )
    return notes


def _of_answers(rows: Sequence[Mapping[str, Any]], answers: AnswerSizes) -> list[str]:
    """What was assumed of answers, and how the bytes of a round compare with those of arrays."""
    notes = []
    for row in (row for row in rows if row["texts"]):
        name = row["configuration"]
        notes.append(f"{name}: assumed {answers}; what answers cost does not depend on the model")
        for other in (other for other in rows if not other["texts"]):
            ratio = _of_round(other) / _of_round(row)
            notes.append(f"{other['configuration']} moves {ratio:,.4g} times the bytes of {name}")
    return notes


def _of_round(row: Mapping[str, Any]) -> int:
    total: int = row["round-upload-bytes"] + row["round-download-bytes"]
    return total


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "–".join(map(_shown, value))
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
