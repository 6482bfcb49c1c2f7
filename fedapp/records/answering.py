"""By which rule a run's models answer: scores by different rules do not compare.

The same frozen model may reach 11 % where it must write the label and 63 % where it chooses among the labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HEAD, WORDS, TEXT = "classification head", "label words", "free text"
OPTIONS = "likeliest option"


def answering_of(config: Mapping[str, Any], labelled: bool) -> str:
    """How models answer: by a head, the likeliest label word or option, or free text; and by which template.

    Args:
        config: A run's composed config.
        labelled: Whether its benchmark has labels.

    Returns:
        The rule in words; several with slashes between them where clients differ.
    """
    rates = (config.get("benchmark") or {}).get("scoring") == "loglikelihood"
    rules = {_rule(model, train, labelled, rates) for model, train in _variants(config)}
    return " / ".join(sorted(rules))


def _variants(config: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Model and training settings of each kind of client."""
    model, train = config.get("model") or {}, config.get("train") or {}
    own = config.get("client_configs") or {}
    if not own or len(config.get("by_client") or []) > len(own):  # else every client has settings of its own
        yield model, train
    for one in own.values():
        yield one.get("model") or model, one.get("train") or train


def _rule(model: Mapping[str, Any], train: Mapping[str, Any], labelled: bool, rates: bool) -> str:
    answers = train.get("answers", "text")
    if model.get("head") == "classification":
        return HEAD
    rule = WORDS if answers == "labels" or (answers == "auto" and labelled) else TEXT
    rule = OPTIONS if rates else rule
    template = train.get("template") or "plain"
    return rule if template == "plain" else f"{rule}, template {template}"
