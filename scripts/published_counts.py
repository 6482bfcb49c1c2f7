"""Work out the papers' published counts with ``fedapp budget`` and write docs/published-counts.md.

    python -m scripts.published_counts

Every count comes out of the budget code, from the adapter, the method and the model's config.json;
nothing is put into the document that was not computed here (``tests/planning/test_published_counts.py``).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedapp.config.compose import load_config
from fedapp.models.outline import ARCHITECTURES, outline_base
from fedapp.models.structure import block_list, hidden_size
from fedapp.planning.budget import Budget, budget_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "published-counts.md"
EXACT, APPROX, OURS, FAIL = "exact", "approximate", "ours", "not reproducible"
TOLERANCE = 0.01  # of an approximate row
SCALES = {"M": 1e6, "%": 1.0, "KiB": 1024.0, "": 1.0}
FIVE = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")  # the targets of LoRA in LLM-Adapters


@dataclass(frozen=True)
class Row:
    """One published figure and what the budget says.

    Attributes:
        figure: What it counts, and where it is printed.
        printed: As printed, without its unit; empty for a value of ours.
        unit: A key of ``SCALES``.
        words: Arguments of ``fedapp budget``.
        read: The computed value in the plain unit (parameters, percent, bytes) from the budget.
        how: What of the budget it is.
        verdict: ``EXACT`` rounds to what is printed; ``APPROX`` is within ``TOLERANCE``.
        note: Why it is not exact, or what to know.
    """

    figure: str
    printed: str
    unit: str
    words: str
    read: Callable[[Budget], float]
    how: str
    verdict: str
    note: str = ""

    @property
    def value(self) -> float:
        """The computed value in the plain unit."""
        return self.read(budget(self.words))

    def agrees(self) -> bool:
        """Whether the verdict is true of the computed value."""
        if not self.printed:
            return self.verdict == OURS
        scaled, printed = self.value / SCALES[self.unit], float(self.printed)
        rounds = abs(scaled - printed) <= 0.5 * 10.0 ** -len(self.printed.partition(".")[2])
        near = abs(scaled - printed) <= TOLERANCE * printed
        return {EXACT: rounds, APPROX: near and not rounds, FAIL: not near}[self.verdict]


@cache
def budget(words: str) -> Budget:
    """The budget of a command line's settings."""
    return budget_of(load_config(words.split()))


def adapter(found: Budget) -> float:
    """Trainable parameters of a client's adapter, without a head."""
    return found.trained[0].adapter


def with_head(found: Budget) -> float:
    """Trainable parameters of a client, the classification head included."""
    return found.trained[0].adapter + found.trained[0].head


def sent(found: Budget) -> float:
    """Values that a client sends in a round."""
    return found.up_values[0]


def of_base(found: Budget) -> float:
    """Adapter in percent of the frozen parameters."""
    return 100 * adapter(found) / (found.trained[0].base or 0)


def of_all(found: Budget) -> float:
    """Adapter in percent of frozen and adapter parameters together."""
    return 100 * adapter(found) / ((found.trained[0].base or 0) + adapter(found))


@cache
def context(name: str) -> tuple[int, int]:
    """IFed-ICL for a model: bytes of a context vector in fp16, and number of coefficients.

    A vector holds two hidden states a layer (attention, MLP), the coefficients are four a layer.
    Source: https://arxiv.org/abs/2511.06757, eqs. 1, 4; fp16 follows from the printed size.
    """
    model = outline_base(ARCHITECTURES / name).model
    layers = len(block_list(model)[1])
    return 2 * layers * hidden_size(model) * 2, 4 * layers


REFT = "model=llama-3.2-3b method=fedreft num_clients=5"
LORA = "model=llama-3.2-3b method=fedit num_clients=5 adapter.target_modules=all-linear"
SB = "model=llama-3.2-3b method=fed_sb num_clients=5 adapter.target_modules=all-linear"
GLUE = "model=roberta-large benchmark=glue_sst2 num_clients=3"
TIED = "method=local adapter=loreft adapter.tied=true adapter.positions=f7+l7"
ULTRA = "model=llama-2-7b method=local adapter=loreft adapter.positions=f5+l5 adapter.layers=[3,9,18,24]"
NO_W = "method=local adapter=consreft +adapter.tied=true adapter.positions=f7+l7"
RANK1 = "benchmark=glue_sst2 method=local adapter=loreft adapter.rank=1 adapter.positions=f3"
TARGETS = f"method=fedit adapter.rank=32 adapter.target_modules=[{','.join(FIVE)}]"

ROWS = (
    Row(
        "FedReFT r 32, Llama-3.2-3B (Table 3)",
        "11.01",
        "M",
        f"{REFT} adapter.rank=32",
        adapter,
        "adapter",
        EXACT,
    ),
    Row("FedReFT r 8, Llama-3.2-3B (Table 3)", "2.75", "M", REFT, adapter, "adapter", EXACT),
    Row(
        "FedReFT r 8, Llama-3-8B (Table 6)",
        "4.19",
        "M",
        "model=llama-3-8b method=fedreft",
        adapter,
        "adapter",
        EXACT,
    ),
    Row("FedIT r 32 (Table 3)", "48.63", "M", f"{LORA} adapter.rank=32", adapter, "adapter", EXACT),
    Row(
        "FFA-LoRA r 32 (Table 3)",
        "24.31",
        "M",
        f"{LORA} adapter.rank=32",
        lambda found: adapter(found) / 2,
        "adapter / 2",
        EXACT,
        "half of FedIT, as if A and B were of one size; what FFA-LoRA trains is the next row",
    ),
    Row(
        "FFA-LoRA r 32: B alone",
        "",
        "M",
        "model=llama-3.2-3b method=ffa_lora num_clients=5 adapter.target_modules=all-linear adapter.rank=32",
        adapter,
        "adapter",
        OURS,
    ),
    Row(
        "FedSA-LoRA r 32: A alone",
        "",
        "M",
        "model=llama-3.2-3b method=fedsa_lora num_clients=5 adapter.target_modules=all-linear"
        " adapter.rank=32",
        sent,
        "sent by a client",
        OURS,
    ),
    Row(
        "FLoRA r 32 (Table 3)",
        "243.15",
        "M",
        "model=llama-3.2-3b method=flora num_clients=5 adapter.target_modules=all-linear adapter.rank=32",
        lambda found: found.down_values[0],
        "received by a client",
        APPROX,
        "5 × 48.63 of rounded figures; what a client gets of 5, stacked, not what one trains",
    ),
    *(
        Row(
            f"Fed-SB r {rank} (Table 3)" if rank == 120 else f"Fed-SB r {rank}",
            printed,
            "M",
            f"{SB} adapter.rank={rank}",
            adapter,
            f"{rank}² for each matrix",
            verdict,
        )
        for rank, printed, verdict in ((120, "2.83", APPROX), (160, "5.02", EXACT), (200, "7.85", APPROX))
    ),
    Row(
        "LoRA / FedSA-LoRA r 8, RoBERTa-large (Table 5)",
        "1.83",
        "M",
        f"{GLUE} method=fedit",
        with_head,
        "adapter + head",
        APPROX,
        "cut, not rounded; the head has 1,051,650 of them",
    ),
    Row(
        "FFA-LoRA r 8, RoBERTa-large (Table 5)",
        "1.44",
        "M",
        f"{GLUE} method=ffa_lora",
        with_head,
        "adapter + head",
        EXACT,
    ),
    Row(
        "FedDPA r 8, RoBERTa-large (Table 5)",
        "2.62",
        "M",
        f"{GLUE} method=fedit adapter.rank=16",
        with_head,
        "adapter + head",
        EXACT,
        "its two adapters of rank 8 have as many parameters as one of rank 16",
    ),
    *(
        Row(f"LoReFT r 8, {label}", printed, "%", f"model={model} {TIED}", of_base, "adapter / base", EXACT)
        for label, model, printed in (
            ("LLaMA-7B", "llama-7b", ".031"),
            ("LLaMA-13B", "llama-13b", ".025"),
            ("Llama-3-8B", "llama-3-8b", ".026"),
        )
    ),
    Row(
        "LoReFT r 4, 4 layers, Llama-2-7B (instructions)",
        ".0039",
        "%",
        f"{ULTRA} adapter.rank=4",
        of_base,
        "adapter / base",
        EXACT,
    ),
    Row(
        "LoReFT, half of it (instructions)",
        ".0019",
        "%",
        f"{ULTRA} adapter.rank=2",
        of_base,
        "adapter / base",
        EXACT,
        "half the rank; tying the two groups gives the same number",
    ),
    *(
        Row(f"LoReFT r 1, {label}", printed, "%", f"model={model} {RANK1}", of_base, "adapter / base", EXACT)
        for label, model, printed in (
            ("RoBERTa-base", "roberta-base", ".015"),
            ("RoBERTa-large", "roberta-large", ".014"),
        )
    ),
    *(
        Row(
            f"Rᵀ(b − Rh), r 8, {label}",
            printed,
            "%",
            f"model={model} {NO_W}",
            of_base,
            "adapter / base",
            EXACT,
        )
        for label, model, printed in (("LLaMA-7B", "llama-7b", ".016"), ("LLaMA-13B", "llama-13b", ".013"))
    ),
    *(
        Row(
            f"LoRA r 32 on q, k, v, up, down, {label}",
            printed,
            "%",
            f"model={model} {TARGETS}",
            of_all,
            "adapter / (base + adapter)",
            EXACT,
        )
        for label, model, printed in (
            ("LLaMA-7B", "llama-7b", ".826"),
            ("Llama-3-8B", "llama-3-8b", ".700"),
        )
    ),
    Row(
        "LoRA r 8 on q, v, a round, Llama-3-8B (IFed-ICL)",
        "13357.78",
        "KiB",
        "model=llama-3-8b method=fedit num_clients=10",
        lambda found: found.up_bytes[0],
        "up: a client, a round",
        APPROX,
        "13,312 KiB of values; a Python container adds the rest (pickle: 13,357.73)",
    ),
    Row(
        "LoRA r 8 on q, v, a round, Qwen2.5-7B",
        "",
        "KiB",
        "model=qwen2.5-7b method=fedit num_clients=10",
        lambda found: found.up_bytes[0],
        "up: a client, a round",
        OURS,
    ),
    *(
        Row(
            f"tie-φ, r {rank}, {label}",
            "",
            "M",
            f"model={model} method=fedreft adapter.tied=true adapter.rank={rank}",
            adapter,
            "adapter",
            OURS,
        )
        for label, model, rank in (
            ("Llama-3.2-3B", "llama-3.2-3b", 32),
            ("Llama-3.2-3B", "llama-3.2-3b", 8),
            ("Llama-3-8B", "llama-3-8b", 8),
        )
    ),
    Row(
        "LoRA r 16 on q, v, Llama-3.1-405B",
        "",
        "M",
        "model=llama-3.1-405b method=fedit adapter.rank=16",
        adapter,
        "adapter",
        OURS,
    ),
)

# Figures that no count gives, with the settings that come nearest.
FAILED = (
    Row(
        "FedReFT, Llama-2-7B (ablation)",
        "4.70",
        "M",
        "model=llama-2-7b method=fedreft",
        adapter,
        "adapter, r 8",
        FAIL,
        "no rank from 1 to 64 with any number of interventions up to 128 rounds to it at a width of 4,096 "
        "(nor at 2,048, 3,072, 5,120)",
    ),
    Row(
        "FedReFT r 1, RoBERTa-large (Table 5)",
        "0.053",
        "M",
        f"model=roberta-large {RANK1.replace('method=local', 'method=fedreft')}",
        adapter,
        "adapter",
        FAIL,
        "printed is 0.015 % (RoBERTa-base's share) of 355 M",
    ),
    Row(
        "FedSA-LoRA r 8, Llama-3-8B (Table 6)",
        "30.40",
        "M",
        "model=llama-3-8b method=fedit adapter.target_modules=all-linear",
        adapter,
        "adapter, all-linear",
        FAIL,
        "printed is 0.38 % of 8.0 B; query and value alone give 3.41 M",
    ),
    Row(
        "FFA-LoRA r 8, Llama-3-8B (Table 6)",
        "15.20",
        "M",
        "model=llama-3-8b method=ffa_lora adapter.target_modules=all-linear",
        adapter,
        "adapter, all-linear",
        FAIL,
        "printed is 0.19 % of 8.0 B",
    ),
)
FEDREFT_GLUE = (88.86, 89.61, 95.17, 94.52, 86.57, 87.80)  # Table 5, its six tasks

# FedReFT's efficiency ratios: as printed, the printed figures they are quotients of, and the
# commands whose adapters (heads apart) are compared here.
RATIOS = (
    ("22.09", "FLoRA / FedReFT r 32", 243.15, 11.01, (f"{LORA} adapter.rank=32", 5), 0),
    ("88.42", "FLoRA / FedReFT r 8", 243.15, 2.75, (f"{LORA} adapter.rank=32", 5), 1),
    ("4.42", "FedIT / FedReFT r 32", 48.63, 11.01, (f"{LORA} adapter.rank=32", 1), 0),
    ("17.68", "FedIT / FedReFT r 8", 48.63, 2.75, (f"{LORA} adapter.rank=32", 1), 1),
    ("2.21", "FFA-LoRA / FedReFT r 32", 24.31, 11.01, (f"{LORA} adapter.rank=32", 0.5), 0),
    ("8.84", "FFA-LoRA / FedReFT r 8", 24.31, 2.75, (f"{LORA} adapter.rank=32", 0.5), 1),
    (".26", "Fed-SB r 120 / FedReFT r 32", 2.83, 11.01, (f"{SB} adapter.rank=120", 1), 0),
    ("1.03", "Fed-SB r 120 / FedReFT r 8", 2.83, 2.75, (f"{SB} adapter.rank=120", 1), 1),
    ("27.17", "FFA-LoRA / FedReFT, GLUE", 1.44, 0.053, (f"{GLUE} method=ffa_lora", 1), "glue"),
    ("49.43", "FedDPA / FedReFT, GLUE", 2.62, 0.053, (f"{GLUE} method=fedit", 2), "glue"),
    ("34.53", "FedSA-LoRA / FedReFT, GLUE", 1.83, 0.053, (f"{GLUE} method=fedit", 1), "glue"),
    ("7.25", "FedSA-LoRA / FedReFT, GSM8K", 30.40, 4.19, (FAILED[2].words, 1), "gsm8k"),
    ("3.63", "FFA-LoRA / FedReFT, GSM8K", 15.20, 4.19, (FAILED[3].words, 1), "gsm8k"),
)
OWN = {0: ROWS[0].words, 1: ROWS[1].words, "glue": FAILED[1].words, "gsm8k": ROWS[2].words}


def ratio_of_counts(rival: tuple[str, float], own: int | str) -> float:
    """What the compared adapters really come to, neither with a classification head."""
    words, factor = rival
    return factor * adapter(budget(words)) / adapter(budget(OWN[own]))


def shown(row: Row) -> str:
    """A computed value as the document has it."""
    if row.unit == "%":
        return f"{row.value:.4g} %"
    if row.unit == "KiB":
        return f"{row.value:,.0f} B = {row.value / 1024:,.2f} KiB"
    return f"{row.value:,.0f}"


def lines() -> Iterator[str]:
    """The document."""
    yield "# Published counts, worked out\n"
    yield (
        "Written by `python -m scripts.published_counts`; a test compares it with what the code computes.\n"
        "Each value is what `fedapp budget` says: the adapter attached to the model without weights, the\n"
        "arrays that the method sends. *exact*: rounds to what is printed. *approximate*: within 1 %, with\n"
        "the reason. *ours*: nothing is printed; the value is here so that a change would be seen. FedReFT\n"
        "is [2508.20295](https://arxiv.org/abs/2508.20295), ReFT\n"
        "[2404.03592](https://arxiv.org/abs/2404.03592), IFed-ICL\n"
        "[2511.06757](https://arxiv.org/abs/2511.06757).\n"
    )
    yield "## Reproduced\n"
    yield "| figure | printed | computed | it is | verdict | |\n|---|---:|---:|---|---|---|"
    for row in ROWS:
        printed = f"{row.printed} {row.unit}".strip() if row.printed else "–"
        yield f"| {row.figure} | {printed} | {shown(row)} | {row.how} | {row.verdict} | {row.note} |"
    for label, name, printed in (("Llama-3-8B", "llama-3-8b", "514 KB"), ("Qwen2.5-7B", "qwen2.5-7b", "–")):
        size, coefficients = context(name)
        verdict = (EXACT, "torch.save adds 1.5 KiB or so") if printed != "–" else (OURS, "")
        yield (
            f"| IFed-ICL context vector, {label} | {printed} | {size:,} B = {size / 1024:,.0f} KiB"
            f" | 2 · layers · width in fp16 | {verdict[0]} | {verdict[1]} |"
        )
        yield f"| IFed-ICL coefficients, {label} | – | {coefficients} | 4 · layers | {OURS} | |"
    yield "\nThe commands, in the same order (`fedapp budget …`):\n"
    yield "```bash"
    yield from dict.fromkeys(f"fedapp budget {_quoted(row.words)}" for row in ROWS)
    yield "```\n"
    yield "## Ratios\n"
    yield (
        "Printed ratios are quotients of printed, rounded figures. The last column is the quotient of what\n"
        "the adapters have, without any classification head: FedReFT's figures for GLUE exclude the head,\n"
        "those of its rivals include it.\n"
    )
    yield "| ratio | printed | of printed figures | of counts |\n|---|---:|---:|---:|"
    for printed, label, above, below, rival, own in RATIOS:
        yield f"| {label} | {printed} | {above / below:.2f} | {ratio_of_counts(rival, own):.2f} |"
    yield "\n## Not reproducible\n"
    yield "| figure | printed | nearest | it is | reason |\n|---|---:|---:|---|---|"
    for row in FAILED:
        yield f"| {row.figure} | {row.printed} {row.unit} | {shown(row)} | {row.how} | {row.note} |"
    yield from _others()


def _others() -> Iterator[str]:
    """Figures that are no counts of parameters."""
    yield (
        f"| FedReFT's mean over GLUE (Table 5) | 90.46, 90.93 | {statistics.fmean(FEDREFT_GLUE):.2f} "
        "| mean of the six printed scores | the baselines' means do follow from their rows |"
    )
    coefficients = context("llama-3-8b")[1]
    yield (
        f"| IFed-ICL, a round | 1.8 KB | {coefficients * 4} B | {coefficients} coefficients in fp32 | "
        "a container's overhead explains it (torch.save of fp16: 1,833 B), no payload does |"
    )
    yield (
        "| FedCoFiT, ratio to LoRA on Llama-3.1-405B | 1006 | – | – | "
        "rank, targets, number and length of the public prompts are not public |\n"
    )
    yield "The commands of the nearest values:\n"
    yield "```bash"
    yield from (f"fedapp budget {_quoted(row.words)}" for row in FAILED)
    yield "```"


def _quoted(words: str) -> str:
    """For a shell: brackets in quotation marks."""
    return " ".join(f"'{word}'" if "[" in word else word for word in words.split())


def document() -> str:
    """The whole text."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"{DOCUMENT.relative_to(ROOT)}: {len(ROWS)} rows, {sum(row.agrees() for row in ROWS)} as stated")
