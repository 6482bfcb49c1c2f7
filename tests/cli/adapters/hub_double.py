"""A double of the Hugging Face hub's HTTP API, as far as an upload of huggingface_hub calls it.

Written against the calls of huggingface_hub 1.33 and hf_xet 1.8: creating a repository, what it is, a check
of the head of the card, how each file is to go up, Git LFS or xet, and the commit. Of what comes by xet only
the hash that the commit names is known here: its chunks are compressed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_known"
LARGE = (".safetensors", ".bin")
"""What the hub takes by Git LFS."""
Answer = tuple[int, dict[str, Any]]


@dataclass
class Repository:
    """A repository: whether it is private, its files, the hashes of large ones, the number of commits."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    commits: int = 0

    def oid(self, path: str) -> str | None:
        """The hash by which an uploader sees that it has the same file, as git and Git LFS make it."""
        if path in self.hashes or path not in self.files:
            return self.hashes.get(path)
        data = self.files[path]
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """What the double holds, and what it refuses.

    Attributes:
        repositories: By ``user/name``.
        objects: What came by Git LFS, by its hash.
        refused: A status and its text by a pattern of the path.
        asked: Method and path of every request.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> Answer:
        """The answer to a request."""
        self.asked.append(f"{method} {path}")
        for pattern, (status, text) in self.refused.items():
            if re.search(pattern, path):
                return status, {"error": text}
        if path.startswith("/objects/"):  # a store's address is signed: it asks for no token
            return self._store(path, body)
        if path.startswith("/cas/"):
            return self._take_chunks(method, path)
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        for pattern, act in ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return act(self, body, **found.groupdict())
        return 404, {"error": f"no such place: {method} {path}"}

    def _create(self, body: bytes) -> Answer:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.endpoint}/{name}"}
        if name in self.repositories:
            return 409, url | {"error": "You already created this model repo"}
        self.repositories[name] = Repository(asked["visibility"] == "private")
        return 200, url

    def _describe(self, body: bytes, name: str) -> Answer:
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        return 200, {"id": name, "private": self.repositories[name].private, "sha": "0" * 40}

    def _check_card(self, body: bytes) -> Answer:
        return 200, {"errors": [], "warnings": []}

    def _say_how(self, body: bytes, name: str) -> Answer:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": self.repositories[name].oid(file["path"]),
            }
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": modes}

    def _take_batch(self, body: bytes, name: str) -> Answer:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.endpoint}/objects/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _store(self, path: str, body: bytes) -> Answer:
        oid = path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "the content has another hash"}
        self.objects[oid] = body
        return 200, {}

    def _say_where(self, body: bytes, name: str) -> Answer:
        return 200, {"accessToken": "a", "exp": int(time.time()) + 3600, "casUrl": f"{self.endpoint}/cas"}

    def _take_chunks(self, method: str, path: str) -> Answer:
        """Of xet's store the oldest calls: whatever is newer is not there, and no chunk is known."""
        if method == "POST" and path.startswith("/cas/v1/xorbs/"):
            return 200, {"was_inserted": True}
        return (200, {"result": 1}) if path == "/cas/v1/shards" else (404, {"error": "not here"})

    def _commit(self, body: bytes, name: str) -> Answer:
        repository = self.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.objects.get(value["oid"], b"")
                repository.hashes[value["path"]] = value["oid"]
        repository.commits += 1
        return 200, {"commitUrl": f"{self.endpoint}/{name}/commit/1", "commitOid": "1" * 40}


_NAME = r"(?P<name>[^/]+/[^/]+)"
ROUTES = [
    (r"POST /api/repos/create", Hub._create),
    (r"POST /api/validate-yaml", Hub._check_card),
    (rf"GET /api/models/{_NAME}(/revision/main)?", Hub._describe),
    (rf"POST /api/models/{_NAME}/preupload/main", Hub._say_how),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", Hub._take_batch),
    (rf"GET /api/models/{_NAME}/xet-write-token/main", Hub._say_where),
    (rf"POST /api/models/{_NAME}/commit/main", Hub._commit),
]


@contextmanager
def hub_double() -> Iterator[Hub]:
    """A hub on a port of this machine, for as long as the block lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            status, said = hub.answer(self.command, path, body, self.headers.get("Authorization"))
            data = json.dumps(said).encode()
            self.send_response(status)
            if status >= 400:
                self.send_header("X-Error-Message", said["error"])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
