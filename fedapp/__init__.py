"""fedapp: federated adaptation of language models on Flower."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedapp.api import Adapter, ConfigError, Run, RunFailed, Sweep, SweepFailed, compare, load, run, sweep

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "ConfigError",
    "Run",
    "RunFailed",
    "Sweep",
    "SweepFailed",
    "compare",
    "load",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """What Python users call is imported when it is first asked for: every command imports this module."""
    if name not in __all__:
        raise AttributeError(f"module 'fedapp' has no attribute {name!r}")
    from fedapp import api

    return vars(api)[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
