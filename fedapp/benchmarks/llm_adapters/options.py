"""Multiple choice as the field scores it by likelihood: a row's instruction taken apart into options.

The files of LLM-Adapters write question, options and the form of the answer into one text. Here the question
alone is the prompt and the options' own words are the answers, as in lighteval and lm-evaluation-harness.

Source: prompts of PIQA, ARC and WinoGrande in lighteval (https://github.com/huggingface/lighteval),
which SmolLM2's model card was measured with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedapp.core.errors import RowError
from fedapp.core.types import Example

_LAYOUT = re.compile(
    r"\s*Please [^:]*?(?P<kind>question|sentence):\s*(?P<question>.*?)\s*\n\n(?P<options>\w+1:.*?)\s*"
    r"Answer format: (?P<names>\w+(?:/\w+)+)\s*",
    re.DOTALL,
)
_TRUE_FALSE = re.compile(
    r"\s*Please [^:]*?true or false, question:\s*(?P<question>.*?)\s*Answer format: true/false\s*", re.DOTALL
)
_BLANK = "_"


def to_choice(row: Mapping[str, Any]) -> Example:
    """A row as a prompt, its options and the right one.

    A question is asked as ``Question: …`` / ``Answer:``, a true-or-false one with ``yes`` and ``no``. A
    sentence with a blank (WinoGrande) ends before it, and each option goes on behind it to the
    sentence's end; one without (HellaSwag) is the prompt.

    Raises:
        RowError: If the instruction is laid out otherwise, or the answer names no option.
    """
    found = _TRUE_FALSE.fullmatch(row["instruction"])
    if found:
        named = {"true": "yes", "false": "no"}
        return _example(f"Question: {found['question']}\nAnswer:", named, row)
    found = _LAYOUT.fullmatch(row["instruction"])
    if not found:
        text = "the instruction of a row is not laid out as question, options and answer format"
        raise RowError(text, f"{text}: {row['instruction'][:80]!r}")
    named = _named(found["options"], found["names"].split("/"))
    question = found["question"]
    if found["kind"] == "question":
        return _example(f"Question: {question}\nAnswer:", named, row)
    before, blank, after = question.partition(_BLANK)
    if blank:
        named = {name: f"{text} {after.strip()}".strip() for name, text in named.items()}
    return _example(before.rstrip(), named, row)


def _named(text: str, names: list[str]) -> dict[str, str]:
    """The options by their names, out of ``Answer1: … Answer2: …``."""
    places, end = [], 0
    for name in names:
        start = text.find(f"{name.capitalize()}:", end)
        if start < 0:
            told = f"a row offers {name} and does not say what it is"
            raise RowError(told, f"{told}: {text[:80]!r}")
        end = start + len(name) + 1
        places.append((start, end))
    ends = [start for start, _ in places[1:]] + [len(text)]
    return {
        name: text[begin:stop].strip() for name, (_, begin), stop in zip(names, places, ends, strict=True)
    }


def _example(prompt: str, named: Mapping[str, str], row: Mapping[str, Any]) -> Example:
    answer = row["answer"].strip()
    if answer not in named:
        told = f"the answer of a row must be one of its options: {', '.join(named)}"
        raise RowError(told, f"{told}; it is {answer!r}")
    return Example(prompt, named[answer], row["task"], options=tuple(named.values()))
