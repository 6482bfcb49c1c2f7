"""The settings of a run that belong to no method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.config.build import ConfigError
from fedapp.core.checks import require_int, require_number, show_value

AUTO = "auto"
"""For ``round_timeout``: by what the first rounds took."""


OF_PLACE = frozenset(
    ("run_dir", "runs_dir", "resume", "checkpoints", "save_adapters", "save_predictions", "tracker")
)
"""Settings of where a run lies and what is kept of it: they say nothing of how a result comes about."""


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run that belong to no method: who takes part, for how long, from which seed.

    Attributes:
        seed: Drives initial parameters, partitions, batches and client sampling.
        num_clients: Clients of the federation; they are numbered from 0.
        num_rounds: Rounds of local training and exchange.
        clients_per_round: Clients sampled for a round; 0 means all.
        min_replies: Usable replies without which a round fails; 0 means half of those asked, rounded up.
        join_timeout: Seconds to wait for nodes to join before the run goes on without or fails.
        round_timeout: Seconds to wait for the replies of a round; ``auto``: three times what the longer of
            the first two rounds took, from 60 to 3600 (``fedapp.server.deadline``).
        evaluate_every: Rounds between evaluations on top of the one after the last round; 0 means none.
        patience: Evaluated rounds without a better mean validation score after which the run ends; 0: none.
        keep_adapters_every: Rounds after which all models are evaluated and kept as they are then; 0: none.
        max_payload_bytes: Most bytes of arrays in a message that the server accepts.
        max_text_bytes: The same of text: lists of text, scores and names, unpacked.
        max_examples: Most rows that a client may say it has; where clients count by examples, the most
            that one counts. A client counts by what it said when it joined, not by what it says later.
        seats: Flower's node id of each client, in the order of their numbers; None where any node may be
            it. Empty: any node may be any client, and two that claim one number end the run.
        max_norm_ratio: An upload whose norm exceeds this multiple of the round's median norm is left
            out; 0 means none is.
        num_threads: CPU threads of torch in each client process.
        num_cpus_per_client: CPU cores that Flower's simulation engine reserves per client at work.
        num_gpus_per_client: GPUs, or a fraction of one, that it reserves per client at work.
    """

    seed: int = 1
    num_clients: int = 4
    num_rounds: int = 3
    clients_per_round: int = 0
    min_replies: int = 0
    join_timeout: float = 180.0
    round_timeout: float | str = 3600.0
    evaluate_every: int = 0
    patience: int = 0
    keep_adapters_every: int = 0
    max_payload_bytes: int = 2**31
    max_text_bytes: int = 2**26
    max_examples: int = 1_000_000
    seats: Sequence[int | None] = ()
    max_norm_ratio: float = 0.0
    num_threads: int = 1
    num_cpus_per_client: int = 1
    num_gpus_per_client: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_clients", "num_rounds", "num_threads", "num_cpus_per_client"):
            require_int(name, getattr(self, name), at_least=1)
        for name in ("max_payload_bytes", "max_text_bytes", "max_examples"):
            require_int(name, getattr(self, name), at_least=1)
        counts = ("clients_per_round", "min_replies", "evaluate_every", "patience", "keep_adapters_every")
        for name in ("seed", *counts):
            require_int(name, getattr(self, name), at_least=0)
        if self.patience and not self.evaluate_every:
            raise ValueError(
                f"patience={self.patience} needs evaluate_every: only evaluated rounds are judged"
            )
        for name in ("join_timeout", "round_timeout"):
            if name != "round_timeout" or self.round_timeout != AUTO:
                require_number(name, getattr(self, name), "(0, inf]", "number of seconds")
        require_number("num_gpus_per_client", self.num_gpus_per_client, "[0, inf)")
        if self.num_gpus_per_client > 1 and self.num_gpus_per_client % 1:
            raise ValueError(f"num_gpus_per_client={self.num_gpus_per_client} must be whole if above 1")
        if self.max_norm_ratio != 0:
            require_number("max_norm_ratio", self.max_norm_ratio, "[1, inf)", "ratio (or 0: none)")
        if self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients_per_round={self.clients_per_round} must not exceed num_clients={self.num_clients}"
            )
        _check_seats(self.seats, self.num_clients)
        asked = self.clients_per_round or self.num_clients
        if self.min_replies > asked:
            raise ValueError(
                f"min_replies={self.min_replies} must not exceed the {asked} clients asked in a round"
            )

    def evaluates(self, server_round: int) -> bool:
        """Whether all clients' models are evaluated after this round, from 1."""
        everies = (self.evaluate_every, self.keep_adapters_every)
        due = any(every and server_round and server_round % every == 0 for every in everies)
        return server_round == self.num_rounds or due

    @property
    def replies_needed(self) -> int:
        """Usable replies without which a round fails."""
        return self.min_replies or -(-(self.clients_per_round or self.num_clients) // 2)


def _check_seats(seats: Any, num_clients: int) -> None:
    """Refuse what is not a node id or null for each client."""
    listed = isinstance(seats, Sequence) and not isinstance(seats, str)
    if not listed or not all(seat is None or (type(seat) is int and seat >= 0) for seat in seats):
        raise ValueError(f"seats={show_value(seats)} must be a list of node ids, null for any node")
    if seats and len(seats) != num_clients:
        raise ValueError(
            f"seats={show_value(seats)} names {len(seats)} nodes, must name one for each of "
            f"num_clients={num_clients} clients (null: any)"
        )


def run_settings(config: Mapping[Any, Any]) -> RunSettings:
    """The run's own settings out of the composed tree.

    Raises:
        ConfigError: If one of them cannot be used.
    """
    try:
        settings = RunSettings(**{name: config[name] for name in RunSettings.__dataclass_fields__})
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if settings.patience and "validation" not in (config.get("score") or {}).get("splits", ()):
        raise ConfigError(f"patience={settings.patience} needs validation among score.splits, to judge by")
    return settings


def folder_setting(config: Mapping[str, Any], name: str) -> Path:
    """The absolute path that a setting names.

    Raises:
        ConfigError: If it names none: an empty text would be the current folder.
    """
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise ConfigError(f"{name}={'null' if value is None else repr(value)} must name a folder")
    return Path(str(value)).expanduser().absolute()
