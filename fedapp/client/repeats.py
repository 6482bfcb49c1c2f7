"""Test rows of a client that are among its own training rows, too: scores on them say little."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from fedapp.client.rows import ClientData

LOG = logging.getLogger("fedapp.client")


@dataclass(frozen=True)
class Repeats:
    """Counts of one client's test rows, without what stands in them.

    Attributes:
        rows: Those with the prompt and the target of a training or validation row.
        prompts: Those with the prompt alone of one, and another target.
        test: All.
    """

    rows: int
    prompts: int
    test: int

    @classmethod
    def of(cls, data: ClientData) -> Repeats:
        """Count a client's."""
        own = (*data.train, *data.val)
        pairs = {(example.prompt, example.target) for example in own}
        prompts = {prompt for prompt, _ in pairs}
        rows = sum((example.prompt, example.target) in pairs for example in data.test)
        asked = sum(example.prompt in prompts for example in data.test)
        return cls(rows, asked - rows, len(data.test))


def warn_of_repeats(client_id: int, data: ClientData) -> None:
    """Put a warning into the client's own log, where there are any."""
    for line in describe_repeats({client_id: Repeats.of(data)}):
        LOG.warning(line)


def describe_repeats(found: Mapping[int, Repeats]) -> list[str]:
    """One line for all clients that have any, with their counts alone; none where none has."""
    found = {client: one for client, one in found.items() if one.rows or one.prompts}
    if not found:
        return []
    named = "; ".join(
        f"client {client}: {one.rows} of {one.test} in full, {one.prompts} by their prompt alone"
        for client, one in list(found.items())[:5]
    )
    more = f"; and {len(found) - 5} clients more" if len(found) > 5 else ""
    repeated = f"test rows that are also training rows of their client ({named}{more})"
    return [f"{repeated}: such scores say little"]
