"""The model card of an export: README.md with the head that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedapp.cli.adapters.kept import Kept
from fedapp.config.build import about
from fedapp.core.files import read_json
from fedapp.reporting.result_file import kept_overrides

CARD_FILE = "README.md"
PEFT, PYREFT, OURS, MERGED = "peft", "pyreft", "fedapp", "transformers"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_EXPORTED = {
    PEFT: "An adapter for the model below, in peft's format.",
    PYREFT: "Interventions on the hidden states of the model below, in pyreft's format.",
    OURS: "Arrays for the model below that no other library has a format for; fedapp applies them.",
    MERGED: "A whole model: an adapter merged into the weights of the model below.",
}


def write_card(kept: Kept, folder: Path, library: str = "") -> None:
    """Write README.md: what it is, of which base and run, what it scores, how to use it.

    Places on this machine are not in it: of a folder in the run's command the last name is left.

    Args:
        kept: The adapter.
        folder: The export, whose files say what it is in, unless ``library`` does.
        library: One of this module's names of libraries.
    """
    from huggingface_hub import EvalResult, ModelCardData

    library = library or library_of(folder)
    benchmark = str(about(kept.about["benchmark"], "name"))
    scores = _scores(kept)
    task = _pipeline(kept)
    results = [
        EvalResult(task, benchmark, benchmark, name, value, dataset_split=str(row["split"]), metric_name=name)
        for row in scores
        for name, value in row.items()
        if name not in ("split", "num-examples")
    ]
    data = ModelCardData(
        base_model=hub_id(kept.about["model"]),
        library_name=library,
        license=about(kept.about["model"], "license"),
        pipeline_tag=_pipeline(kept),
        tags=["federated-learning", "fedapp", str(about(kept.about["adapter"], "name"))],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=_title(kept) if results else None,
        eval_results=results or None,
    )
    parts = [
        f"# {_title(kept)}",
        _EXPORTED[library],
        _facts(kept),
        _results(scores),
        f"## How to use it\n\n{_usage(kept, library)}",
        _origin(kept),
    ]
    text = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def library_of(folder: Path) -> str:
    """In which library's format an exported folder is, by its files."""
    if (folder / "adapter_config.json").is_file():
        return PEFT
    return PYREFT if "intervention_types" in read_json(folder / "config.json") else OURS


def hub_id(model: Mapping[str, Any]) -> str | None:
    """Where a base is on the hub, by its node of a config; None where that is not known."""
    said = about(model, "hub")
    path = str(model.get("path") or "")
    return str(said) if said else path if _HUB_ID.fullmatch(path) and not Path(path).exists() else None


def _pipeline(kept: Kept) -> str:
    return "text-classification" if _classifies(kept) else "text-generation"


def _classifies(kept: Kept) -> bool:
    return bool(kept.about["model"].get("head") == "classification")


def _title(kept: Kept) -> str:
    names = [str(about(kept.about[part], "name")) for part in ("adapter", "model", "benchmark")]
    return "{} for {} on {}".format(*names)


def _run_folder(kept: Kept) -> Path | None:
    parents = kept.folder.absolute().parents
    return parents[1] if parents[0].name == "adapters" and (parents[1] / "run.json").is_file() else None


def _scores(kept: Kept) -> list[dict[str, Any]]:
    """Scores of the final model, by split; of a shared adapter those of all its clients together."""
    said = kept.about.get("scores")
    if said:
        return list(said)
    run = _run_folder(kept)
    summary = read_json(run / "summary.json") if run else {}
    final = summary.get("final") or {}
    value = final.get("pooled-score", final.get("mean-score"))
    if kept.folder.name != "shared" or value is None or not summary.get("metric"):
        return []
    return [{"split": "test", "num-examples": final.get("test-rows"), summary["metric"]: value}]


def _facts(kept: Kept) -> str:
    base = hub_id(kept.about["model"])
    name = str(about(kept.about["model"], "name"))
    description = about(kept.about["model"], "description")
    rows = [
        ("base model", f"{base} ({description})" if base and description else base or name),
        ("base fingerprint", f"`{kept.about['base-fingerprint']}`"),
        ("whose", "all clients'" if kept.folder.name == "shared" else kept.folder.name),
        ("adapter", f"{about(kept.about['adapter'], 'description')}"),
        ("seed", str(kept.about["seed"])),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)


def _results(scores: list[dict[str, Any]]) -> str:
    lines = [
        f"| {row['split']} | {row['num-examples']} | {name} | {value:.4f} |"
        for row in scores
        for name, value in row.items()
        if name not in ("split", "num-examples")
    ]
    head = "## Results\n\n| split | rows | metric | score |\n|---|---|---|---|\n"
    return head + "\n".join(lines) if lines else ""


def _usage(kept: Kept, library: str) -> str:
    labels = list(kept.benchmark.labels or ())
    classifier = _classifies(kept)
    auto = "SequenceClassification" if classifier else "CausalLM"
    base = hub_id(kept.about["model"]) or "PATH_OF_THE_BASE_MODEL"
    extra = f", num_labels={len(labels)}, id2label={dict(enumerate(labels))!r}" if classifier else ""
    lines = ["from transformers import AutoTokenizer"]
    if library == OURS:
        return "`fedapp predict` and `fedapp chat` on the kept adapter of the run."
    if library == PEFT:
        lines = [f"from peft import AutoPeftModelFor{auto}", *lines, ""]
        lines.append(f'model = AutoPeftModelFor{auto}.from_pretrained("."{extra}).eval()')
    elif library == MERGED:
        lines = [f"from transformers import AutoModelFor{auto}, AutoTokenizer", ""]
        lines.append(f'model = AutoModelFor{auto}.from_pretrained(".").eval()')
    else:
        lines = [f"from transformers import AutoModelFor{auto}, AutoTokenizer", "import pyreft", ""]
        lines += ["from fedapp.adapters.reft.export import register", ""]
        lines += [f'base = AutoModelFor{auto}.from_pretrained("{base}"{extra}).eval()']
        lines += ["register(base)  # of models that pyvene does not list, such as BERT"]
        whole = ", include_model=True" if classifier else ""
        lines += [f'model = pyreft.ReftModel.load(".", base{whole})']
    if kept.about["model"].get("pooling") == "mean":
        model = "base" if library == PYREFT else "model.get_base_model()"
        lines += ["", "from fedapp.models.structure import pool_by_mean", f"pool_by_mean({model})"]
    lines.append('tokenizer = AutoTokenizer.from_pretrained(".")')
    code = "```python\n" + "\n".join(lines) + "\n```"
    where = kept.about["adapter"].get("positions")
    told = f"\n\nThe interventions act on `{where}` of each prompt's tokens." if library == PYREFT else ""
    return code + told


def _origin(kept: Kept) -> str:
    """The command that makes it again, and what it was made with."""
    run = _run_folder(kept)
    facts = read_json(run / "run.json") if run else {}
    lines = ["## Where it comes from", ""]
    if facts.get("overrides"):
        command = shlex.join(kept_overrides(facts["overrides"]))
        lines += ["```", f"fedapp run {command} seed={kept.about['seed']}", "```", ""]
    versions = ", ".join(f"{name} {number}" for name, number in (facts.get("versions") or {}).items())
    known = {"commit": facts.get("git-sha"), "with": versions, "on": facts.get("processor")}
    lines += [f"- {name}: {value}" for name, value in known.items() if value]
    settings = {key: value for key, value in kept.about["adapter"].items() if key not in ("about", "recipe")}
    lines += [f"- adapter: `{json.dumps(settings)}`"]
    lines += [f"- base model loaded from: `{_public(kept.path)}`"] if kept.path else []
    return "\n".join(lines)


def _public(path: str) -> str:
    """A path without the machine's own folders."""
    return f".../{Path(path).name}" if Path(path).is_absolute() else path
