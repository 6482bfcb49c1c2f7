"""The parties' door: passes on the calls of SuperNodes, and nothing else.

Flower's SuperLink serves on one port what parties call (``/v1/fleet/``) and what submits runs and registers
keys (``/v1/control/``), the latter without asking who calls. So it listens on the loopback alone, and this
stands on the port that parties reach. ``nginx.conf`` of a server's folder does the same.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fedapp.site.commands import LOOPBACK
from fedapp.site.layout import ServerSite, address

PARTIES = "/v1/fleet/{call}"
"""What of Flower's API is the parties'."""
CALL = re.compile("[a-z]+(-[a-z]+)*")
"""A plain word behind it: no path leads out of it again."""
# Of one connection, not of what is sent: they are not passed on.
HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"})
START_SECONDS = 20.0


class GateFault(RuntimeError):
    """The parties' port cannot be opened; the text is one line."""


@contextmanager
def open_gate(site: ServerSite) -> Iterator[None]:
    """Keep the parties' port open while the body runs.

    Raises:
        GateFault: If it cannot be opened.
    """
    server = _Thread(
        uvicorn.Config(
            gate(site),
            host=site.bind,
            port=site.port,
            ssl_certfile=str(site.certificate),
            ssl_keyfile=str(site.key),
            log_level="critical",  # what goes wrong as it starts is said in one line
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    thread = threading.Thread(target=server.run_quietly, name="gate", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    if not server.started:
        server.should_exit = True
        raise GateFault(f"port {address(site.bind, site.port)} cannot be opened: another program may have it")
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def gate(site: ServerSite) -> Starlette:
    """The door as an ASGI application, in front of the SuperLink of a server's folder."""
    behind = f"https://{LOOPBACK}:{site.control_port}"
    trust = ssl.create_default_context(cafile=str(site.authority))
    client = httpx.AsyncClient(
        base_url=behind, verify=trust, timeout=httpx.Timeout(60.0, read=600.0), trust_env=False
    )

    async def pass_on(request: Request) -> Response:
        if not CALL.fullmatch(request.path_params["call"]):
            return PlainTextResponse("Not Found", status_code=404)
        headers = [(name, value) for name, value in request.headers.raw if name.decode() not in HOP_BY_HOP]
        call = client.build_request("POST", request.url.path, headers=headers, content=request.stream())
        try:
            answer = await client.send(call, stream=True)
        except httpx.HTTPError:
            return PlainTextResponse("the SuperLink does not answer", status_code=503)
        given = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        end = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, headers=given, background=end)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    return Starlette(routes=[Route(PARTIES, pass_on, methods=["POST"])], lifespan=lifespan)


class _Thread(uvicorn.Server):
    """A server in a thread, where it leaves signals alone; a port that is taken ends the thread alone."""

    def run_quietly(self) -> None:
        """Serve until told to end."""
        with suppress(SystemExit):  # uvicorn's way to say that the port is taken
            self.run()
