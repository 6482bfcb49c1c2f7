"""What Flower's SuperLink spends on parties that wait, in processor time of its process.

    python perf/superlink.py --nodes 10 100 1000 [--requests 500] [--database]

A SuperLink on this machine, without TLS; nodes are registered and activated through Flower's own
client, and then look for messages in turn and say that they are alive, as SuperNodes do every 3 and every 30
seconds. A SuperLink is one process with one port: what it spends a second on that many waiting parties, as a
share of one core, is the last column. ``--database`` keeps its state in SQLite on disk; without it in memory.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fedapp.engines.flower.home import flower_home  # noqa: E402
from fedapp.engines.flower.processes import ProcessTree, find_program  # noqa: E402
from fedapp.engines.flower.superlink import environment  # noqa: E402

LOOKS_EVERY, ALIVE_EVERY = 3.0, 30.0  # seconds; Flower's SuperNode
PATIENCE = 180.0


class FakeNode:
    """A SuperNode that only waits: its key, its id and its connection."""

    def __init__(self, address: str) -> None:
        private, public = generate_key_pairs()
        self.key = public_key_to_bytes(public)
        own = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, public),
        ]
        self.client = FleetHttpClient.from_server_address(address, True, None, interceptors=own)
        self.node = Node()

    def join(self) -> None:
        self.client.RegisterNode(RegisterNodeFleetRequest(public_key=self.key))
        asked = ActivateNodeRequest(public_key=self.key, heartbeat_interval=10 * ALIVE_EVERY)
        self.node = Node(node_id=self.client.ActivateNode(asked).node_id)

    def look(self) -> None:
        if self.client.PullMessages(PullMessagesRequest(node=self.node)).messages_list:
            raise SystemExit("a message for a node of nobody")

    def alive(self) -> None:
        asked = SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=10 * ALIVE_EVERY)
        if not self.client.SendNodeHeartbeat(asked).success:
            raise SystemExit("the SuperLink does not know a node that it has taken")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spent(link: subprocess.Popen[bytes]) -> float:
    """Processor seconds of the SuperLink so far."""
    times = psutil.Process(link.pid).cpu_times()
    return times.user + times.system


def wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit(f"the SuperLink does not listen within {PATIENCE:g} s")


def measure(link: subprocess.Popen[bytes], address: str, counts: list[int], requests: int) -> None:
    """Print a line for each number of nodes."""
    nodes: list[FakeNode] = []
    for count in counts:
        before, added = spent(link), count - len(nodes)
        while len(nodes) < count:
            nodes.append(FakeNode(address))
            nodes[-1].join()
        joining = (spent(link) - before) / max(added, 1)
        each = []
        for ask in (FakeNode.look, FakeNode.alive):
            before = spent(link)
            for number in range(requests):
                ask(nodes[number % count])
            each.append((spent(link) - before) / requests)
        share = count * (each[0] / LOOKS_EVERY + each[1] / ALIVE_EVERY)
        memory = psutil.Process(link.pid).memory_info().rss / 2**20
        print(
            f"{count:6d} {1e3 * joining:10.2f} {1e3 * each[0]:10.2f} {1e3 * each[1]:10.2f} "
            f"{memory:10.0f} {100 * share:11.1f} %",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--requests", type=int, default=500, help="timed, of each kind")
    parser.add_argument("--database", action="store_true", help="keep the state in a file")
    options = parser.parse_args()
    with flower_home() as home, tempfile.TemporaryDirectory() as folder:
        # What starts apps asks the SuperLink for work, too: here there is none, and it must not count.
        variables = environment(home, ROOT) | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "60"}
        tree, port = ProcessTree(variables, home), free_port()
        command = [find_program("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--disable-runtime-dependency-installation"]
        command += ["--database", f"{folder}/state.db"] if options.database else []
        try:
            with (Path(folder) / "log.txt").open("wb") as log:
                link = tree.start(command, log.fileno())
                wait_for(port)
                heads = ("join ms", "look ms", "alive ms", "MiB")
                print(f"{'nodes':>6} " + " ".join(f"{head:>10}" for head in heads) + f" {'of a core':>13}")
                measure(link, f"127.0.0.1:{port}", sorted(options.nodes), options.requests)
        finally:
            tree.end()


if __name__ == "__main__":
    main()
