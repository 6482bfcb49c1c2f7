"""The arrays of a run's messages by their shapes, as routine and strategy describe them.

A method says it with hooks, all of names and shapes:

- routine ``upload_spec(parameters)``: what a client sends in a round; values in the routine's
  ``dtype`` (fp32 if it has none).
- strategy ``download_spec(uploads)``: what each sender gets after a round of these uploads, in the
  strategy's ``download_dtype``.
- Where the first exchange is another than the rest: routine ``first_upload_spec(parameters)`` in
  ``first_dtype``, strategy ``first_download_spec(uploads)`` in ``first_download_dtype``; each stands
  for its counterpart of a usual round if it is absent. A strategy with ``asks_ahead = True`` has
  that exchange before round 1, with the clients that are drawn for round 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedapp.config.build import ConfigError
from fedapp.core.types import Shapes, count

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Known(Protocol):
    """What is known of a client's arrays."""

    @property
    def shapes(self) -> Shapes:
        """Of the trainable ones."""

    @property
    def frozen(self) -> Shapes:
        """Of those that the adapter holds beside them."""


@dataclass
class Exchange:
    """Uploads of a round, and the downloads that follow from them.

    Attributes:
        uploads: What each client sends.
        download_spec: The strategy's.
        up_dtype, down_dtype: Types of the values.
    """

    uploads: Sequence[Shapes]
    download_spec: Callable[[Sequence[Shapes]], list[Shapes]]
    up_dtype: str
    down_dtype: str
    _counts: dict[int, int] = field(default_factory=dict)
    _downs: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def up(self, client: int) -> int:
        """Values that a client sends."""
        upload = self.uploads[client]
        if id(upload) not in self._counts:
            self._counts[id(upload)] = count(upload)
        return self._counts[id(upload)]

    def down(self, senders: Sequence[int]) -> list[int]:
        """Values for each sender after a round of theirs; worked out once for like senders."""
        uploads = [self.uploads[client] for client in senders]
        key = tuple(id(upload) for upload in uploads)
        if key not in self._downs:
            self._downs[key] = [count(spec) for spec in self.download_spec(uploads)]
        return self._downs[key]

    def up_bytes(self, clients: Sequence[int]) -> int:
        """Bytes that these clients send together."""
        return sum(map(self.up, clients)) * ITEM_BYTES[self.up_dtype]

    def down_bytes(self, senders: Sequence[int], clients: Sequence[int]) -> int:
        """Bytes for these clients after a round of these senders; who missed it is taken for one more."""
        known = dict(zip(senders, self.down(senders), strict=True))
        for client in set(clients) - set(known):
            everyone = sorted([*senders, client])
            known[client] = self.down(everyone)[everyone.index(client)]
        return sum(known[client] for client in clients) * ITEM_BYTES[self.down_dtype]


@dataclass
class Wire:
    """All messages of a run.

    Attributes:
        first: The first exchange.
        steady: All others.
        asks_ahead: Whether the first exchange comes before round 1.
    """

    first: Exchange
    steady: Exchange
    asks_ahead: bool

    @classmethod
    def of(cls, routine: Any, strategy: Any, clients: Sequence[Known]) -> Wire:
        """Ask a method what it sends.

        Args:
            routine: Its client half.
            strategy: Its server half.
            clients: What each client has; the same object for clients that are alike.

        Raises:
            ConfigError: If it does not say.
            ClientFailure: If it finds nothing to send.
        """
        up = _hook(routine, "upload_spec", "method.routine")
        down = _hook(strategy, "download_spec", "method.strategy")
        up_dtype = getattr(routine, "dtype", "float32")
        down_dtype = getattr(strategy, "download_dtype", "float32")
        steady = Exchange(_each(up, clients), down, up_dtype, down_dtype)
        first_up = getattr(routine, "first_upload_spec", None)
        first_down = getattr(strategy, "first_download_spec", None)
        if first_up is None and first_down is None:
            return cls(steady, steady, False)
        first = Exchange(
            steady.uploads if first_up is None else _each(first_up, clients),
            first_down or down,
            up_dtype if first_up is None else getattr(routine, "first_dtype", up_dtype),
            down_dtype if first_down is None else getattr(strategy, "first_download_dtype", down_dtype),
        )
        return cls(first, steady, getattr(strategy, "asks_ahead", False))


def _each(spec: Callable[[Shapes], Shapes], clients: Sequence[Known]) -> list[Shapes]:
    """What each client sends; one object for clients that are alike."""
    found = {id(client): spec({**client.frozen, **client.shapes}) for client in clients}
    return [found[id(client)] for client in clients]


def _hook(owner: Any, name: str, where: str) -> Any:
    method = getattr(owner, name, None)
    if not callable(method):
        raise ConfigError(f"{where}: {type(owner).__name__} cannot be counted, it has no {name}()")
    return method
