"""Answers as they come from clients that nobody vouches for: matched by prompt id, cleaned, counted."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

Texts = Mapping[str, list[str]]

KEPT_CONTROLS = "\n\t"
EMPTY, CUT, ODD = "empty", "cut to max_answer_chars", "freed of characters that are no text"
UNKNOWN, TWICE = "to unknown prompts", "to a prompt answered before"
BOASTED = "said to be of its own kind, which more than half of the prompts cannot be"


@dataclass(frozen=True)
class Answers:
    """What can be used of one client's upload.

    Attributes:
        texts: Answer by number of the prompt; an empty one is an abstention.
        log_likelihoods: Mean log-likelihood per token where the client gave a usable one.
        own_kind: Prompts that the client says are of its own kind; none where it says so of most.
        refused: How often something was wrong, by what it was.
        fault: Why nothing of it can be used; empty otherwise.
    """

    texts: dict[int, str] = field(default_factory=dict)
    log_likelihoods: dict[int, float] = field(default_factory=dict)
    own_kind: frozenset[int] = frozenset()
    refused: Counter[str] = field(default_factory=Counter)
    fault: str = ""


def read_answers(texts: Texts, num_prompts: int, digest: str, max_chars: int) -> Answers:
    """Read an upload. It cannot shift: an answer belongs to the prompt id that came with it.

    Args:
        texts: ``ids`` and ``answers`` of one length, ``public-set``, perhaps ``likelihoods``.
        num_prompts: Public prompts there are; their ids are ``"0"`` to the one before it.
        digest: What ``public-set`` must say (``PublicSet.digest``).
        max_chars: Characters of an answer that are kept.
    """
    ids, answers = texts.get("ids", []), texts.get("answers", [])
    if texts.get("public-set", []) != [digest]:
        said = str(texts.get("public-set", []))[:40]
        return Answers(fault=f"it answers other public prompts than the server's ({said}, not {digest})")
    if len(ids) != len(answers):
        return Answers(fault=f"it sends {len(answers)} answers for {len(ids)} prompt ids")
    known = {str(number): number for number in range(num_prompts)}
    found = Answers()
    likelihoods = texts.get("likelihoods", [])
    rated = likelihoods if len(likelihoods) == len(ids) else [""] * len(ids)
    for name, answer, likelihood in zip(ids, answers, rated, strict=True):
        number = known.get(name)
        if number is None or number in found.texts:
            found.refused[UNKNOWN if number is None else TWICE] += 1
            continue
        found.texts[number], problems = clean(answer, max_chars)
        found.refused.update(problems)
        value = _log_likelihood(likelihood)
        if value is not None:
            found.log_likelihoods[number] = value
    return _with_own_kind(found, texts.get("own-kind", []), ids, num_prompts)


def _with_own_kind(found: Answers, marks: list[str], ids: list[str], num_prompts: int) -> Answers:
    """Add the prompts marked ``1``; whoever marks more than half of all is no specialist and gets none."""
    if len(marks) != 1 or len(marks[0]) != len(ids):
        return found
    names = {name for name, mark in zip(ids, marks[0], strict=True) if mark == "1"}
    marked = frozenset(number for number in found.texts if str(number) in names)
    if 2 * len(marked) > num_prompts:
        found.refused[BOASTED] += len(marked)
        return found
    return replace(found, own_kind=marked)


def clean(text: str, max_chars: int) -> tuple[str, list[str]]:
    """Make an answer valid text of limited length.

    Lone surrogates and control characters (line breaks and tabs excepted) are taken out.

    Returns:
        The text without surrounding blanks, and what was wrong with it.
    """
    problems = []
    if len(text) > max_chars:
        text = text[:max_chars]
        problems.append(CUT)
    if not text.isprintable():  # the common case costs one pass
        kept = "".join(c for c in text if c in KEPT_CONTROLS or unicodedata.category(c) not in ("Cc", "Cs"))
        if kept != text:
            problems.append(ODD)
        text = kept
    text = text.strip()
    if not text:
        problems.append(EMPTY)
    return text, problems


def describe_refused(refused: Mapping[str, int]) -> str:
    """What was wrong, for a warning: ``3 answers empty, 1 to unknown prompts``."""
    parts = [f"{count} {problem}" for problem, count in sorted(refused.items())]
    return f"of its answers {', '.join(parts)}"


def prompt_ids(numbers: Sequence[int]) -> list[str]:
    """Prompts' ids, as they travel."""
    return [str(number) for number in numbers]


def num_bytes(texts: Mapping[int, str]) -> int:
    """Bytes of answers with their prompt ids as a payload counts them: UTF-8, no containers."""
    return sum(len(str(n)) + len(text.encode("utf-8", "surrogatepass")) for n, text in texts.items())


def _log_likelihood(text: str) -> float | None:
    if not 0 < len(text) <= 32:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value <= 0 else None
