"""A party's side of every message: its policy before anything is built, its log before anything leaves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedapp.client.admission import Refusal, admit
from fedapp.client.audit import AuditLog, asked, left
from fedapp.client.release import reason_for_party, reason_for_server, release, release_joined
from fedapp.client.workplace import read_config
from fedapp.config.policy import Policy, PolicyError
from fedapp.core.files import OFFLINE_VARIABLE
from fedapp.core.payload import Payload
from fedapp.core.types import ClientFailure
from fedapp.wire.messages import Done, Failed, Joined

EXPECTED = (ClientFailure, ValueError, ImportError, OSError)
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", OFFLINE_VARIABLE)
logger = logging.getLogger("fedapp.party")


@dataclass
class Exchange:
    """A message on its way through the party: what is known of it so far.

    Attributes:
        about: What the log is to say of it.
        clients: The node's clients that it concerns.
    """

    about: dict[str, Any]
    clients: tuple[int, ...] = ()


@dataclass(frozen=True)
class Party:
    """Whoever owns the machine that this process runs on.

    Attributes:
        policy: What a run may ask.
        log: Where it is recorded; None where nothing is guarded.
        output: Folder for final adapters; None: only a run folder on this machine, if nothing is guarded.
    """

    policy: Policy
    log: AuditLog | None
    output: str | None = None

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> Party:
        """The owner of a node.

        Raises:
            ClientFailure: If its policy cannot be used; why goes to its own log.
        """
        try:
            policy = Policy.of(node_config)
        except PolicyError as error:
            logger.error("%s", error)
            raise ClientFailure("this party's policy cannot be used; its own log says why") from None
        os.environ.pop(OFFLINE_VARIABLE, None)
        if not policy.network:  # the libraries read theirs once, when they are loaded, which is later
            for name in OFFLINE:
                os.environ[name] = "1"
        named = policy.output or node_config.get("output-dir")
        return cls(policy, AuditLog.of(policy), None if named is None else str(named))

    def admit(self, config_json: str, exchange: Exchange) -> str:
        """The config as this party runs it, noted for the log; errors as in ``admission.admit``."""
        if self.policy.open:
            return config_json
        config = read_config(config_json)
        first = exchange.clients[0] if exchange.clients else 0
        exchange.about |= asked(config.client(first), config_json)
        admitted = admit(config_json, self.policy, exchange.clients)
        exchange.about["data_dir"] = str(read_config(admitted)["benchmark"].get("data_dir"))
        return admitted

    def answer(self, exchange: Exchange, work: Callable[[], Done | Joined]) -> Done | Joined | Failed:
        """Do a message's work and let out what may leave; a failure becomes the answer.

        Args:
            exchange: The message; ``work`` adds what it learns of it.
            work: Does it.

        Raises:
            Exception: What nobody expects, where nothing is guarded: its traceback goes to the run's log.
        """
        try:
            reply = self._released(work())
            if self.log is not None:  # a digest of all that leaves takes its time
                upload = reply.upload if isinstance(reply, Done) else Payload()
                self._note(exchange, {"outcome": "answered", "left": left(reply.facts(), upload)})
        except Exception as error:
            if self.policy.open and not isinstance(error, EXPECTED):
                raise
            return self._failure(exchange, error)
        return reply

    def _released(self, reply: Done | Joined) -> Done | Joined:
        if isinstance(reply, Done):
            return release(reply, self.policy)
        return release_joined(reply, self.policy)

    def _failure(self, exchange: Exchange, error: Exception) -> Failed:
        if not isinstance(error, EXPECTED):
            logger.error("a message failed", exc_info=error)
        failed = Failed(reason_for_server(error, self.policy), exchange.clients)
        outcome = "refused" if isinstance(error, Refusal) else "failed"
        try:
            self._note(
                exchange,
                {"outcome": outcome, "reason": reason_for_party(error), "left": {"facts": failed.facts()}},
            )
        except ClientFailure as lost:
            return Failed(str(lost), exchange.clients)
        return failed

    def _note(self, exchange: Exchange, result: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.append({**exchange.about, "clients": list(exchange.clients), **result})
