"""The parties' port lets parties through, and nobody to where runs are submitted."""

from __future__ import annotations

import socket
import ssl
import threading
import time

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedapp.site.gate import GateFault, open_gate
from fedapp.site.layout import ServerSite, read_server
from fedapp.site.making import Plan, make
from fedapp.site.supervisor import free_port

CALLED = []


async def superlink(request: Request) -> Response:
    """Answers as a SuperLink does: everything, whoever calls."""
    body = await request.body()
    CALLED.append((request.method, request.url.path, dict(request.headers), body))
    return Response(body[::-1], status_code=412, headers={"x-flower": "yes"})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate") / "site"
    make(Plan(folder, "localhost", 1, 8443))
    made = read_server(folder / "server")
    return ServerSite(made.folder, "localhost", free_port(), free_port(), "127.0.0.1", "own", 1)


@pytest.fixture(scope="module")
def gate(site):
    app = Starlette(routes=[Route("/{path:path}", superlink, methods=["GET", "POST", "PUT", "DELETE"])])
    files = {"ssl_certfile": str(site.certificate), "ssl_keyfile": str(site.key)}
    server = uvicorn.Server(uvicorn.Config(app, port=site.control_port, log_level="error", **files))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    with (
        open_gate(site),
        httpx.Client(
            base_url=f"https://localhost:{site.port}", verify=str(site.authority), trust_env=False
        ) as client,
    ):
        yield client
    server.should_exit = True
    thread.join(10)


def test_what_a_party_sends_and_gets_is_left_as_it_is(gate):
    CALLED.clear()
    body = bytes(range(256)) * 40_000  # 10 MB, twice the largest piece that Flower sends
    answer = gate.post("/v1/fleet/push-object", content=body, headers={"flwr-signature": "abc"})
    assert (answer.status_code, answer.headers["x-flower"]) == (412, "yes")
    assert answer.content == body[::-1]
    method, path, headers, arrived = CALLED[0]
    assert (method, path, arrived) == ("POST", "/v1/fleet/push-object", body)
    assert headers["flwr-signature"] == "abc"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/pull-task",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/fleet/x/../../control/start-run",
        "/v1/fleet//v1/control/start-run",
        "/v1/fleet/",
        "/v1/fleet/Push-object",
        "/docs",
        "/",
    ],
)
def test_no_other_way_leads_to_the_superlink(gate, site, path):
    CALLED.clear()
    # By hand, as clients tidy up paths before they send them.
    context = ssl.create_default_context(cafile=str(site.authority))
    with (
        socket.create_connection(("localhost", site.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
        assert connection.recv(100).split()[1] in (b"404", b"400")
    assert CALLED == []


def test_a_party_only_posts(gate):
    CALLED.clear()
    assert gate.get("/v1/fleet/pull-messages").status_code == 405
    assert CALLED == []


def test_a_superlink_that_is_away_is_said_so(site, tmp_path):
    alone = ServerSite(site.folder, "localhost", free_port(), free_port(), "127.0.0.1", "own", 1)
    with open_gate(alone):
        url = f"https://localhost:{alone.port}/v1/fleet/pull-messages"
        answer = httpx.post(url, verify=str(alone.authority), trust_env=False)
    assert (answer.status_code, answer.text) == (503, "the SuperLink does not answer")


def test_a_port_that_is_taken_is_one_line(site):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        taken = ServerSite(site.folder, "localhost", port, free_port(), "127.0.0.1", "own", 1)
        with pytest.raises(GateFault, match=f"port 127.0.0.1:{port} cannot be opened"), open_gate(taken):
            pass
