"""Sending only what changed, in a way that lost messages cannot put out of step.

Each side says by number which state of the other it holds: the server names the round of the last
answers that it has of a client (``heard``), the client names the round of the pseudo-labels that it
has (``have``). A difference is only sent against a state so named; in doubt everything is sent.
That there might be an adaptive exchange is FedCoFiT's outlook; this protocol is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedapp.core.types import Arrays
from fedapp.methods.consensus.answers import Texts, num_bytes, prompt_ids

MEMORY = "exchange:memory"
"""Name under which a client's state holds what it exchanged, beside its parameters."""


def changed(old: Mapping[int, str], new: Mapping[int, str]) -> dict[int, str]:
    """The texts of ``new`` that ``old`` does not have, or not like this."""
    return {number: text for number, text in new.items() if old.get(number) != text}


def read_labels(texts: Texts, num_prompts: int) -> dict[int, str]:
    """Pseudo-labels by prompt, matched by id; what does not fit is left out."""
    ids, labels = texts.get("ids", []), texts.get("labels", [])
    if len(ids) != len(labels):
        return {}
    known = {str(number): number for number in range(num_prompts)}
    return {known[name]: label for name, label in zip(ids, labels, strict=True) if name in known and label}


def as_texts(name: str, texts: Mapping[int, str]) -> dict[str, list[str]]:
    """Texts by prompt as two parallel lists, ordered by prompt: ``ids`` and ``name``."""
    numbers = sorted(texts)
    return {"ids": prompt_ids(numbers), name: [texts[number] for number in numbers]}


@dataclass
class ClientMemory:
    """What a client must remember of an adaptive exchange.

    Attributes:
        version: Round of the pseudo-labels held, as the server numbered them; empty: none.
        labels: These pseudo-labels, by prompt.
        sent_in: Round in which answers were last sent; empty: never.
        sent: The answers that the server has if it heard that, by prompt.
    """

    version: str = ""
    labels: dict[int, str] = field(default_factory=dict)
    sent_in: str = ""
    sent: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Arrays) -> ClientMemory:
        """Read it from a client's state; a new one where there is none."""
        if MEMORY not in state:
            return cls()
        held = json.loads(bytes(state[MEMORY]))
        texts = {k: {int(n): t for n, t in held[k].items()} for k in ("labels", "sent")}
        return cls(held["version"], texts["labels"], held["sent_in"], texts["sent"])

    def array(self) -> np.ndarray:
        """As the state keeps it: JSON as bytes."""
        return np.frombuffer(json.dumps(vars(self)).encode("ascii"), np.uint8)

    def take(self, texts: Texts, num_prompts: int) -> None:
        """Take in a download: all pseudo-labels, or their difference to those of a round named.

        A difference to pseudo-labels that are not held is of no use: then none are held, and the next
        upload's missing ``have`` makes the server send all.
        """
        version, base = texts.get("version", [""]), texts.get("base", [])
        if base and base != [self.version]:
            self.version, self.labels = "", {}
            return
        held = self.labels if base else {}
        gone = set(texts.get("gone", []))
        kept = {number: label for number, label in held.items() if str(number) not in gone}
        self.version, self.labels = version[0] if version else "", kept | read_labels(texts, num_prompts)

    def give(self, answers: Mapping[int, str], heard: Texts, server_round: int) -> dict[str, list[str]]:
        """An upload's answers, less those that the server holds; remembers what it then holds."""
        in_step = bool(self.sent_in) and heard.get("heard", []) == [self.sent_in]
        held = self.sent if in_step else {}
        texts = as_texts("answers", changed(held, answers))
        if in_step:
            texts["base"] = [self.sent_in]
        if self.version:
            texts["have"] = [self.version]
        self.sent_in, self.sent = str(server_round), {**held, **answers}
        return texts


@dataclass
class ServerMemory:
    """What a server must remember of an adaptive exchange.

    Attributes:
        labels: Pseudo-labels by prompt, by the round that made them; only those still needed.
        holds: For each client the round of the pseudo-labels that it surely has. A download strikes
            it out until the client's reply confirms it again.
        heard: For each client the round of the last upload that was used.
    """

    labels: dict[int, dict[int, str]] = field(default_factory=dict)
    holds: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it, numbered things as pairs."""
        labels = [[version, list(held.items())] for version, held in self.labels.items()]
        return {"labels": labels, "holds": list(self.holds.items()), "heard": list(self.heard.items())}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> ServerMemory:
        """What ``facts`` gave."""
        labels = {version: dict(held) for version, held in facts["labels"]}
        return cls(labels, dict(facts["holds"]), dict(facts["heard"]))

    def download(self, client_id: int) -> tuple[dict[str, list[str]], int]:
        """What a client gets, and how many bytes less that is than all pseudo-labels would be."""
        texts: dict[str, list[str]] = {}
        base = self.holds.pop(client_id, None)
        if client_id in self.heard:
            texts["heard"] = [str(self.heard[client_id])]
        if not self.labels:
            return texts, -_size(texts)
        version = max(self.labels)
        current, held = self.labels[version], self.labels.get(base, {}) if base is not None else {}
        texts |= as_texts("labels", changed(held, current)) | {"version": [str(version)]}
        if base is not None:
            gone = prompt_ids(sorted(set(held) - set(current)))
            texts |= {"base": [str(base)], **({"gone": gone} if gone else {})}
        return texts, num_bytes(current) - _size(texts)

    def confirmed(self, client_id: int, texts: Texts, server_round: int) -> str:
        """Note what an upload says of the client's state.

        Returns:
            Why its answers cannot be used; empty if they can.
        """
        have = texts.get("have", [])
        named = [version for version in self.labels if have == [str(version)]]
        if named:
            self.holds[client_id] = named[0]
        base, heard = texts.get("base", []), self.heard.pop(client_id, None)
        if base and base != [str(heard)]:
            return f"it sends changes since round {str(base)[:20]}, not held here"
        self.heard[client_id] = server_round
        return ""

    def publish(self, server_round: int, labels: Mapping[int, str]) -> None:
        """Number a round's pseudo-labels, and forget those that no client is known to hold."""
        needed = set(self.holds.values())
        self.labels = {version: held for version, held in self.labels.items() if version in needed}
        self.labels[server_round] = dict(labels)


def _size(texts: Texts) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for values in texts.values() for text in values)
