"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass

from fedapp.site.serving import SOON_DAYS


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        text: What was found.
        remedy: What to do; empty where all is well.
        note: Where there is a remedy that can wait: it is no problem yet.
    """

    text: str
    remedy: str = ""
    note: bool = False

    @property
    def is_problem(self) -> bool:
        """Whether a run would fail of it."""
        return bool(self.remedy) and not self.note


def validity(what: str, left: float) -> Finding:
    """On a certificate that is valid for so many days more."""
    if left <= 0:
        return Finding(f"{what} has expired", "fedapp site renew, where the site was made")
    soon = left < SOON_DAYS
    text = f"{what} is valid for {left:.0f} days"
    return Finding(text, "fedapp site renew" if soon else "", note=soon)
