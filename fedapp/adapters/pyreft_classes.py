"""NoReFT and NodiReFT as pyreft can rebuild them from a folder; imported by pyreft's loader only."""

from __future__ import annotations

from typing import Any

import torch
from pyreft import interventions


class NoreftIntervention(interventions.NoreftIntervention):  # type: ignore[misc]
    """pyreft's class with the arguments that its saved configuration leaves out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"add_bias": False, "dtype": torch.float32, **kwargs})

    def forward(self, base: Any, source: Any = None, subspaces: Any = None) -> Any:
        """Run in fp32 over hidden states of any dtype."""
        return super().forward(base.float(), source, subspaces).to(base.dtype)


class NodireftIntervention(interventions.NodireftIntervention):  # type: ignore[misc]
    """pyreft's class with the arguments that its saved configuration leaves out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"add_bias": False, "dtype": torch.float32, **kwargs})

    def forward(self, base: Any, source: Any = None, subspaces: Any = None) -> Any:
        """Run in fp32 over hidden states of any dtype."""
        return super().forward(base.float(), source, subspaces).to(base.dtype)
