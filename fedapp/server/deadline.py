"""How long a round waits for its clients: a number of seconds, or what its first rounds took."""

from __future__ import annotations

from fedapp.config.run import AUTO
from fedapp.core.method import Phase

LONGEST = 3600.0
"""Seconds that the rounds are waited for from which the others' deadline follows."""
FIRST = 2
"""How many these are, of each phase."""
TIMES, LEAST = 3.0, 60.0
"""The deadline in the longest of their times, and the least that it is, in seconds; both ours."""
CLOCK_SECONDS = 120.0
"""How far the clocks of server and parties may lie apart: for so long a message outlives its round."""
LONGEST_TTL = 1e8
"""The longest that a message lives, in seconds: about three years."""


class Deadline:
    """What the first exchanges of each phase took, and the patience that follows from it.

    Args:
        took: Seconds of these exchanges by phase, where they are known from before.
    """

    def __init__(self, took: dict[str, list[float]] | None = None) -> None:
        self.took = dict(took or {})

    def note(self, phase: Phase, seconds: float, answered: bool) -> None:
        """An exchange took so long, all there or time up; one that nobody answered tells nothing."""
        if answered and len(self.took.get(phase, ())) < FIRST:
            self.took.setdefault(phase, []).append(seconds)

    def patience(self, setting: float | str, phase: Phase) -> float:
        """Seconds to wait for the replies of an exchange.

        Args:
            setting: ``round_timeout``: seconds, or ``auto``.
            phase: Of the exchange.
        """
        if setting != AUTO:
            return float(setting)
        took = self.took.get(phase, [])
        return LONGEST if len(took) < FIRST else min(max(TIMES * max(took), LEAST), LONGEST)
