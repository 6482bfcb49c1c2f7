"""Run the server and client apps in one process, without SuperLink or Ray.

The apps are the very objects that ``flwr run`` loads. Every message, reply and client memory is
turned into bytes and back, as over HTTP, so nothing is shared by accident and what cannot be
sent fails here too. Flower's private names stay in this file: pin flwr, look here on upgrade.
"""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from uuid import uuid4

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedapp.core.files import OPEN, POLICY_KEY, POLICY_VARIABLE
from fedapp.core.payload import ArraysOnDisk

RunConfig = Mapping[str, str | int | float | bool]
Predicate = Callable[[int, Message], bool]


def _never(client_id: int, request: Message) -> bool:
    return False


def _untouched(client_id: int, reply: Message) -> Message:
    return reply


@dataclass(frozen=True)
class Network:
    """What happens to replies on their way back; the default network is faultless.

    Attributes:
        reverse: Serve the message that was pushed last first.
        drop: ``drop(client_id, request)`` is true if the client answers and the reply is lost.
        repeat: ``repeat(client_id, request)`` is true if the reply arrives twice.
        tamper: ``tamper(client_id, reply)`` returns the reply that arrives instead.
    """

    reverse: bool = False
    drop: Predicate = _never
    repeat: Predicate = _never
    tamper: Callable[[int, Message], Message] = _untouched


@dataclass
class Traffic:
    """Bytes on the wire, headers of Flower's objects included.

    Attributes:
        down: From the server to the clients.
        up: From the clients to the server.
    """

    down: int = 0
    up: int = 0


def over_the_wire(message: Message) -> tuple[Message, int]:
    """Turn a message into bytes and back, object by object, as Flower's HTTP transport does.

    Returns:
        An equal message that shares no object with the original, and its size in bytes.

    Raises:
        Exception: Whatever Flower raises for a record that cannot be serialised.
    """
    with no_object_id_recompute():
        contents = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        object_id = message.object_id
    num_bytes = sum(len(content) for content in contents.values())
    copy = inflate_object_from_contents(object_id, contents)
    assert isinstance(copy, Message)
    # The message id is no part of the bytes: the transport sends it beside them.
    copy.metadata.__dict__["_message_id"] = message.metadata.message_id
    return copy, num_bytes


class InProcessGrid(Grid):
    """A Flower grid whose nodes live in this process and answer one after the other.

    A message is handled when its reply is pulled, one message per pull, so a server that polls
    sees each client finish. Node ids are drawn at random, as Flower does: only
    ``node_config["partition-id"]`` is stable.

    Args:
        client_app: Called once per message.
        num_nodes: How many nodes there are; partition ids run from 0.
        run_config: Seen by every node as ``Context.run_config``.
        network: How replies are disturbed.

    Raises:
        ValueError: If ``num_nodes`` is less than 1.
    """

    def __init__(
        self, client_app: ClientApp, num_nodes: int, run_config: RunConfig, network: Network | None = None
    ) -> None:
        if num_nodes < 1:
            raise ValueError(f"num_clients={num_nodes!r} must be at least 1")
        self.client_app = client_app
        self.network = network or Network()
        self.traffic = Traffic()
        self._run = Run.create_empty(run_id=secrets.randbits(63))
        self._nodes: dict[int, int] = {}
        self._contexts = ArraysOnDisk()  # of all nodes: among many they are more than one client's model
        self._waiting: dict[str, Message] = {}
        for client_id in range(num_nodes):
            node_config: UserConfig = {
                "partition-id": client_id,
                "num-partitions": num_nodes,
                POLICY_KEY: os.environ.get(POLICY_VARIABLE) or OPEN,
            }
            node_id = secrets.randbits(62) + SUPERLINK_NODE_ID + 1
            context = Context(self._run.run_id, node_id, node_config, RecordDict(), dict(run_config))
            self._nodes[node_id] = client_id
            self._keep(context)

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Replace the run that this grid belongs to."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message; Flower keeps this for old apps."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Node ids in partition order."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Accept messages; each is handled when its reply is pulled.

        Raises:
            TypeError: If given an iterator: Flower's HTTP grid walks over the messages twice.
        """
        if isinstance(messages, Iterator):
            raise TypeError("push_messages needs a list of messages: an iterator fails over HTTP")
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            copy, num_bytes = over_the_wire(message)
            self.traffic.down += num_bytes
            self._waiting[message.metadata.message_id] = copy
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Handle the first of the messages named that waits, and return its reply.

        Returns:
            One reply, two equal ones if the network repeats it, none if it was lost or if no
            message of that name is waiting.
        """
        asked = list(message_ids)
        order = reversed(asked) if self.network.reverse else asked
        mine = next((name for name in order if name in self._waiting), None)
        return [] if mine is None else self._answer(self._waiting.pop(mine))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages and handle all of them; a lost reply is not waited for."""
        message_ids = self.push_messages(messages)
        replies: list[Message] = []
        while any(message_id in self._waiting for message_id in message_ids):
            replies += self.pull_messages(message_ids)
        return replies

    def _answer(self, request: Message) -> list[Message]:
        client_id = self._nodes.get(request.metadata.dst_node_id)
        if client_id is None:
            reason = f"node {request.metadata.dst_node_id} is not known"
            return [_arrived(Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=request))]
        try:
            reply, num_bytes = over_the_wire(self._handle(request))
        except (Exception, SystemExit) as error:
            log(ERROR, "client %s failed\n%s", client_id, traceback.format_exc())
            # Flower's simulation says it in these words.
            reason = f"{type(error)}:<'{error}'>"
            failure = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=request)
            reply, num_bytes = over_the_wire(failure)
        self.traffic.up += num_bytes
        if self.network.drop(client_id, request):
            return []
        replies = [self.network.tamper(client_id, reply)]
        if self.network.repeat(client_id, request):
            replies.append(over_the_wire(replies[0])[0])
        return [_arrived(reply) for reply in replies]

    def _handle(self, request: Message) -> Message:
        """Call the client app; the node's memory changes only if that succeeds."""
        context = _read_context(self._contexts[request.metadata.dst_node_id][""].tobytes())
        reply = self.client_app(request, context)
        self._keep(context)
        return reply

    def _keep(self, context: Context) -> None:
        content = context_to_proto(context).SerializeToString()
        self._contexts[context.node_id] = {"": np.frombuffer(content, np.uint8)}


def run_local(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    num_nodes: int,
    run_config: RunConfig,
    network: Network | None = None,
) -> None:
    """Run a server app against ``num_nodes`` in-process clients.

    Args:
        server_app: Called once; what it raises is raised here.
        client_app: Called once per message, in this process.
        num_nodes: Number of clients.
        run_config: Seen by server and clients as ``Context.run_config``.
        network: How replies are disturbed; None for a faultless network.

    Raises:
        ValueError: If ``num_nodes`` is less than 1.
    """
    grid = InProcessGrid(client_app, num_nodes, run_config, network)
    context = Context(grid.run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(run_config))
    with server_identity(grid.run.run_id):
        server_app(grid, context)


@contextmanager
def server_identity(run_id: int) -> Iterator[None]:
    """Let this process create messages as the server of a run; restored afterwards."""
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def _read_context(content: bytes) -> Context:
    return context_from_proto(ProtoContext.FromString(content))


def _arrived(reply: Message) -> Message:
    reply.metadata.__dict__["_message_id"] = str(uuid4())
    return reply
