"""The party's audit log: a line for every message, what it asked and what left in answer."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.config.policy import Policy
from fedapp.core.files import append_line
from fedapp.core.payload import Payload
from fedapp.core.status import TIME
from fedapp.core.types import ClientFailure

LONGEST = 200
"""Characters of what a server calls something, so that small messages make no large log."""


@dataclass(frozen=True)
class AuditLog:
    """A file of JSON lines that is only ever appended to.

    Attributes:
        file: Where it lies.
    """

    file: Path

    @classmethod
    def of(cls, policy: Policy) -> AuditLog | None:
        """The log that a policy asks for; there is none where nothing is guarded."""
        if policy.open:
            return None
        if policy.log is not None:
            return cls(Path(policy.log))
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return cls(Path(state) / "fedapp" / "audit.jsonl")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write a line, whole, before the answer leaves.

        Raises:
            ClientFailure: If it cannot be written: what is not on record does not leave.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch(mode=0o600)
            self.file.chmod(0o600)
            append_line(self.file, json.dumps({"time": time.strftime(TIME), **entry}))
        except OSError:
            raise ClientFailure(
                "this party's audit log cannot be written, and nothing leaves without a record"
            ) from None


def asked(config: Mapping[str, Any], config_json: str) -> dict[str, Any]:
    """What a run asks for, in names; the digest tells one config from another."""
    facts = {
        "method": (config["method"].get("about") or {}).get("name"),
        "routine": config["method"]["routine"].get("_target_"),
        "adapter": config["adapter"].get("_target_"),
        "benchmark": config["benchmark"].get("_target_"),
        "data_dir": config["benchmark"].get("data_dir"),
        "model": config["model"].get("path"),
    }
    return {
        **{name: str(value)[:LONGEST] for name, value in facts.items()},
        "config-sha256": hashlib.sha256(config_json.encode()).hexdigest(),
    }


def left(facts: Mapping[str, Any], upload: Payload) -> dict[str, Any]:
    """What left with a reply: names, shapes and bytes; one digest over all values."""
    digest = hashlib.sha256()
    arrays = []
    for name, array in sorted(upload.arrays.items()):
        digest.update(name.encode() + array.tobytes())
        arrays.append([name, str(array.dtype), list(array.shape)])
    for name, texts in sorted(upload.texts.items()):
        digest.update(json.dumps([name, texts]).encode())
    return {
        "facts": dict(facts),
        "arrays": arrays,
        "texts": {name: len(texts) for name, texts in sorted(upload.texts.items())},
        "payload-bytes": upload.num_bytes,
        "payload-sha256": digest.hexdigest(),
    }
