"""The nginx.conf of a server's folder, in front of a federation, in the place of our own gate."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.slow.test_site_walk import Terminals, commands, free_ports, wait_until_online

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx (apt install nginx)"),
]
MAIN = """\
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log access.log;
    client_body_temp_path bodies;
    proxy_temp_path answers;
    include {conf};
}}
"""


@pytest.fixture
def terminals(tmp_path):
    """A site of three parties with data, whose parties' port is left to a proxy."""
    shells = Terminals(tmp_path)
    before = commands()[: next(i for i, line in enumerate(commands()) if line.startswith("fedapp doctor"))]
    shells.port = free_ports()
    for command in before:
        place = f" --port {shells.port}" if command.startswith("fedapp site init") else ""
        assert shells.run(command + place).returncode == 0
    settings = tmp_path / "site" / "server" / "site.yaml"
    text = settings.read_text()
    assert "gate: own" in text
    settings.write_text(text.replace("gate: own", "gate: none"))
    yield shells
    shells.close()


@pytest.fixture
def nginx(tmp_path, terminals):
    """An nginx with the file that `fedapp site init` wrote."""
    (tmp_path / "main.conf").write_text(MAIN.format(conf=tmp_path / "site" / "server" / "nginx.conf"))
    command = ["nginx", "-p", str(tmp_path), "-e", "stderr", "-c", "main.conf"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command)
    yield process
    process.terminate()
    process.wait(30)


def answer(terminals, path, body=b""):
    """The status of what the parties' port says to a call."""
    known = ssl.create_default_context(cafile=str(terminals.folder / "site" / "server" / "ca.crt"))
    request = urllib.request.Request(f"https://localhost:{terminals.port}{path}", body, method="POST")
    try:
        with urllib.request.urlopen(request, context=known, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_parties_work_through_nginx_and_nothing_else_gets_through(tmp_path, terminals, nginx):
    terminals.leave_running("fedapp site server site/server", "ready: 3 parties")
    for party in range(3):
        terminals.leave_running(f"fedapp site party site/party-{party}", "log: ")
    wait_until_online(terminals)
    words = "benchmark=own partitioner=private num_rounds=2 join_timeout=900"
    done = terminals.run(f"fedapp site submit {words} --wait")
    assert done.returncode == 0, (done.stdout, done.stderr)
    alone = "mkdir rows && cp -r site/party-?/data/* rows && fedapp run engine=local benchmark=own "
    alone += "benchmark.data_dir=rows partitioner=distinct_task num_clients=3 num_rounds=2 run_dir=alone"
    assert terminals.run(alone).returncode == 0
    for client in range(3):
        place = f"client-{client}/adapter.safetensors"
        kept = (tmp_path / f"site/party-{client}/output" / place).read_bytes()
        assert kept == (tmp_path / "alone/adapters" / place).read_bytes()
    run = next((tmp_path / "site" / "server" / "runs").iterdir())
    assert json.loads((run / "run.json").read_text())["warnings"] == []
    for path in ("/v1/control/list-runs", "/v1/control/register-node", "/", "/v1/fleet/../control/list-runs"):
        assert answer(terminals, path) == 404, path
    # A piece of an adapter has 5 MiB; what the server thinks of this one is its business.
    assert answer(terminals, "/v1/fleet/push-object", bytes(6 * 2**20)) not in (404, 413, 502, 504)
    assert answer(terminals, "/v1/fleet/push-object", bytes(40 * 2**20)) == 413
    assert " 5" not in {line.split('"')[2][:2] for line in (tmp_path / "access.log").read_text().splitlines()}
