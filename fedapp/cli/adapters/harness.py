"""``fedapp lm-eval``: a kept adapter, on its base, under lm-evaluation-harness.

The harness makes prompts, tokens and metrics; what a text's likelihood is behind a prompt, and what the model
writes, is asked of the adapter at work. So any adapter can be scored, those too that no other library
opens, such as interventions on a prompt's first and last tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from fedapp.cli.adapters.kept import Kept, attached
from fedapp.cli.output import require_place
from fedapp.core.errors import one_line
from fedapp.core.files import write_atomically
from fedapp.models.base import Base


def evaluate(
    source: Path,
    tasks: Sequence[str],
    out: TextIO,
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    to: Path | None = None,
    max_new_tokens: int | None = None,
    base: bool = False,
) -> None:
    """Score a kept adapter by tasks of the harness and print a line for each metric.

    Args:
        source: The adapter's folder.
        tasks: Names of tasks or groups.
        out: Where the lines go.
        include_path: A folder with task files of one's own.
        limit: Rows of each task; None: all.
        to: A file for the harness's results as JSON.
        max_new_tokens: Longest generated answer in tokens; None: as in the run.
        base: Score the base model alone.

    Raises:
        ValueError: If the harness is not installed, the adapter is on no language model, or a task is not
            known or cannot be read.
    """
    if to is not None:
        require_place("--to", to, "scores.json")
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ValueError(
            "fedapp lm-eval needs lm-evaluation-harness: pip install 'fedapp[harness]'"
        ) from None
    with attached(source, max_new_tokens=max_new_tokens) as kept:
        manager = TaskManager(include_path=None if include_path is None else str(include_path))
        _require_known(tasks, manager.all_tasks)
        model = make_model(kept)
        try:
            with kept.model.disabled() if base else nullcontext():
                found = lm_eval.simple_evaluate(model, tasks=list(tasks), task_manager=manager, limit=limit)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"--tasks={','.join(tasks)}: {one_line(error)}") from None
    assert found is not None  # only on ranks beyond the first
    out.writelines(_lines(found["results"], found["n-samples"]))
    if to is not None:
        known = {key: found[key] for key in ("results", "n-samples", "versions", "configs")}
        write_atomically(to, json.dumps(known, indent=1, default=str) + "\n")


def _lines(results: Mapping[str, Any], samples: Mapping[str, Any]) -> Iterator[str]:
    """A line for each metric of each task, as ``acc,none`` and ``acc_stderr,none`` name them."""
    for task, values in results.items():
        rows = (samples.get(task) or {}).get("effective")
        for key, value in values.items():
            name, _, applied = key.partition(",")
            if not applied or name.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{name}_stderr,{applied}")
            spread = f" ± {error:.4f}" if isinstance(error, float) else ""
            yield f"{task}  {name} {value:.4f}{spread}" + (f"  ({rows} rows)\n" if rows else "\n")


def _require_known(tasks: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in tasks if name not in known]
    if unknown:
        raise ValueError(
            f"--tasks: lm-evaluation-harness knows no {', '.join(map(repr, unknown))}; "
            "list them with: lm_eval ls tasks"
        )


def make_model(kept: Kept) -> Any:
    """An ``lm_eval.api.model.LM`` that a kept adapter stands behind.

    Raises:
        ValueError: If its base is no language model.
    """
    if not isinstance(kept.base, Base) or kept.base.head != "lm":
        raise ValueError(
            f"{kept.folder}: lm-evaluation-harness needs a language model, this base has a classification "
            "head; fedapp predict answers rows with it"
        )
    from fedapp.adapters.base import TrainedModel
    from fedapp.adapters.harness import AdaptedLM
    from fedapp.adapters.prompting import Prompted

    if not isinstance(kept.model, TrainedModel | Prompted):
        raise ValueError(f"{kept.folder}: this adapter only answers, and no text's likelihood is known")
    return AdaptedLM(kept.model, kept.base, kept.train)
