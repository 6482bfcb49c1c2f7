"""What an engine gets to run, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.core.errors import one_line

Event = Mapping[str, Any]
"""One line of the server's ``events.jsonl``."""
OnEvent = Callable[[Event], None]


class RunFailed(RuntimeError):
    """The run did not end as it should; the text is one line for the user.

    Attributes:
        path: The run's folder, where it has one.
    """

    def __init__(self, text: str, path: Path | None = None) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True)
class Job:
    """One run, whatever engine it runs on.

    Attributes:
        app_dir: Folder with ``pyproject.toml``, ``server_app.py`` and ``client_app.py``.
        run_dir: Absolute path of the run folder, which exists.
        overrides: Hydra overrides in one string, quoted as a shell would (``shlex.join``);
            ``run_dir`` is among them.
        num_clients: Nodes to provide.
        num_cpus_per_client: CPUs that Ray reserves per client at work.
        num_gpus_per_client: GPUs, or a fraction of one, that Ray reserves per client at work.
        resumed: Whether the folder holds a run that goes on.
        start_timeout: Seconds from the submission until the server must have found its clients.
        make_ready: Called once the folder is held, before anything else is done in it.
    """

    app_dir: Path
    run_dir: Path
    overrides: str
    num_clients: int
    num_cpus_per_client: int = 1
    num_gpus_per_client: float = 0.0
    start_timeout: float = 360.0
    resumed: bool = False
    make_ready: Callable[[], None] = lambda: None

    @property
    def run_config(self) -> dict[str, str | int | float | bool]:
        """What server and clients see as ``Context.run_config``."""
        return {"overrides": self.overrides}

    @property
    def log_file(self) -> Path:
        """Where everything goes that Flower, Ray and the apps print."""
        return self.run_dir / "log.txt"


def check_outcome(end: Event | None, fallback: str) -> None:
    """Judge a run by the server's last word.

    Args:
        end: The server's ``end`` event, None if there was none.
        fallback: What to say if the server said nothing.

    Raises:
        RunFailed: Unless the server said that the run is complete.
    """
    if end is None:
        raise RunFailed(fallback)
    if end.get("status") != "completed":
        raise RunFailed(one_line(str(end.get("message") or fallback)))
