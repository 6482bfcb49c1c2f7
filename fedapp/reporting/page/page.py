"""The page: figures with their alternatives, the table of the comparison, what each run was.

Everything is in the one file: styles, Vega, the data. A policy in its head keeps the browser from loading
anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

import fedapp
from fedapp.core.errors import printable
from fedapp.records.table import format_bytes, show_cell
from fedapp.reporting.comparison.rows import Comparison
from fedapp.reporting.comparison.shown import OF_TEXT, cells_of, notes_of
from fedapp.reporting.page import between, clients, course, scores
from fedapp.reporting.page.charts import CONFIG
from fedapp.reporting.page.figure import Figure
from fedapp.reporting.page.reading import RunFiles, read_files

OF_RUN: tuple[Callable[[RunFiles], Figure | None], ...] = (
    scores.curves,
    scores.bytes_curve,
    scores.weights,
    clients.partition,
    clients.similarity,
    clients.matrix,
    course.agreement,
    course.cluster_sizes,
    course.coefficients,
    course.coefficients_by_round,
    course.time_by_phase,
)
"""The figures of one run, in the page's order; None where the run has nothing to show in it."""
OF_ALL: tuple[Callable[[Comparison], Figure | None], ...] = (
    between.means_by_round,
    between.pareto,
    between.clients,
    between.differences,
)
"""The figures of several runs together."""
OPEN_RUNS = 3
"""With more runs than these each one's figures are folded away at first."""
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """One run on the page.

    Attributes:
        name: Its heading.
        anchor: By which it is linked.
        facts: What it was: name and value.
        warnings: What was warned of.
        figures: What it has to show.
        config: Its composed config, as YAML.
    """

    name: str
    anchor: str
    facts: Mapping[str, str]
    warnings: Sequence[str]
    figures: Sequence[Figure]
    config: str


def make_page(comparison: Comparison, warn: Callable[[str], None]) -> str:
    """The whole page as HTML.

    Args:
        comparison: The runs, side by side.
        warn: Told in one line of each file that cannot be read; the page does without it.

    Raises:
        ValueError: If the libraries for it are not installed.
    """
    jinja2, bundle = _libraries()
    sections = [_section(number, run) for number, run in enumerate(_named(comparison, warn), start=1)]
    several = len(sections) > 1
    figures = [figure for make in OF_ALL if several and (figure := make(comparison))]
    columns, rows = cells_of(comparison)
    place = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    place.filters["cell"] = _cell
    return str(
        place.get_template("page.html").render(
            version=fedapp.__version__,
            metric=printable(comparison.metric),
            benchmark=printable(str(comparison.rows()[0]["benchmark"])),
            style=(_HERE / "page.css").read_text(encoding="utf-8"),
            script=(_HERE / "page.js").read_text(encoding="utf-8"),
            vega=bundle,
            table={"columns": columns, "rows": rows, "text": OF_TEXT, "notes": list(notes_of(comparison))},
            figures=figures,
            sections=sections,
            open_runs=len(sections) <= OPEN_RUNS,
            data=_as_json(figures, sections),
        )
    )


def _libraries() -> tuple[Any, str]:
    """Jinja, and Vega with Vega-Lite and Vega-Embed as one script.

    Raises:
        ValueError: If one of them is not installed.
    """
    try:
        import jinja2

        return jinja2, vega()
    except ModuleNotFoundError as error:
        raise ValueError(f"a report needs {error.name}: pip install 'fedapp[report]'") from None


@lru_cache(maxsize=1)
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, safe within a script element."""
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stubs ask for more than it does
    return str(bundle).replace("</script", "<\\/script")


def _named(comparison: Comparison, warn: Callable[[str], None]) -> Iterator[RunFiles]:
    for group in comparison.groups:
        for run in group.runs:
            yield read_files(run, f"{group.label}, seed {run.seed}", warn)


def _section(number: int, run: RunFiles) -> Section:
    figures = [figure for make in OF_RUN if (figure := make(run))]
    warnings = [printable(str(text)) for text in run.result.about.get("warnings") or []]
    config = yaml.safe_dump(dict(run.result.config), sort_keys=False, allow_unicode=True)
    return Section(
        run.name, f"run-{number}", dict(_facts(run)), warnings, figures, printable(config, keep="\n")
    )


def _facts(run: RunFiles) -> Iterator[tuple[str, str]]:
    """What a run was and came to."""
    result, about = run.result, run.result.about
    yield "folder", printable(str(result.folder))
    for name in ("started", "git-sha", "base-fingerprint", "processor", "python"):
        if about.get(name):
            yield name, printable(str(about[name]))
    versions = about.get("versions") or {}
    if versions:
        yield (
            "versions",
            printable(", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        )
    if about.get("overrides"):
        yield "settings", printable(" ".join(map(str, about["overrides"])))
    same = {
        True: "the same for all clients",
        False: "differ between clients",
        None: "not known whether the same",
    }
    yield "final models", same[result.pooled.one_model]
    yield (
        "sent, received",
        f"{format_bytes(result.summary.sent_bytes)}, {format_bytes(result.summary.received_bytes)}",
    )
    yield "time", f"{result.seconds:.0f} s"


def _cell(value: object) -> str:
    """A number of a figure's table, or an empty cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.10g}"
    return printable(show_cell(value))


def _as_json(figures: Sequence[Figure], sections: Sequence[Section]) -> str:
    """Charts by the id of their place, safe within a script element."""
    specs = {f"all-{figure.kind}": figure.spec for figure in figures}
    for section in sections:
        specs |= {f"{section.anchor}-{figure.kind}": figure.spec for figure in section.figures}
    text = json.dumps({"config": CONFIG, "specs": specs}, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
