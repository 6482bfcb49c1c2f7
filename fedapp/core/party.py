"""How a process learns whose machine it runs on."""

from __future__ import annotations

POLICY_VARIABLE = "FEDAPP_POLICY"
"""Environment variable that names a policy file, where the node's configuration names none."""
POLICY_KEY = "policy"
"""The same in a node's configuration, which comes first."""
OPEN = "open"
"""In the place of a file: server and clients are one user's, as in a simulation; nothing is guarded."""
