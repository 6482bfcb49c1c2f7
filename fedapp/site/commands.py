"""The plain Flower commands behind ``fedapp site``; what ``--dry-run`` shows."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedapp.core.files import POLICY_VARIABLE
from fedapp.engines.flower import supernode as quick_supernode
from fedapp.site.layout import QUICK, PartySite, ServerSite, address

CONNECTION = "site"
LOOPBACK = "127.0.0.1"


def superlink(site: ServerSite) -> list[str]:
    """Start the server; it listens on the loopback alone."""
    return [
        *("flower-superlink", "--host", LOOPBACK, "--port", str(site.control_port)),
        *("--ssl-ca-certfile", str(site.authority)),
        *("--ssl-certfile", str(site.certificate), "--ssl-keyfile", str(site.key)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(site.database)),
    ]


def register(site: ServerSite, party: int) -> list[str]:
    """Make a party's public key known to the server."""
    return [
        *("flwr", "supernode", "register", str(site.public_key(party)), CONNECTION),
        *("--name", f"party-{party}"),
    ]


def nodes(site: ServerSite) -> list[str]:
    """List the parties' nodes."""
    return ["flwr", "supernode", "ls", CONNECTION]


def submit(app: Path, run_config: str) -> list[str]:
    """Hand a run to the server.

    Args:
        app: Folder of the two apps.
        run_config: A TOML file, or what it would hold.
    """
    return ["flwr", "run", str(app), CONNECTION, "--run-config", run_config]


def listing(run_id: str | None = None) -> list[str]:
    """List the server's runs, or one of them."""
    return ["flwr", "ls", CONNECTION, *(["--run-id", run_id] if run_id else [])]


def stop(run_id: str) -> list[str]:
    """Stop a run."""
    return ["flwr", "stop", run_id, CONNECTION]


def supernode(site: PartySite, runtime_port: int) -> list[str]:
    """Start a party's node.

    Args:
        site: The party's folder.
        runtime_port: A free port of this machine, for the node's own processes.
    """
    named = f"partition-id={site.party} num-partitions={site.parties} policy={quoted(str(site.policy))}"
    trusted = ["--trusted-entities", site.trusted_entities] if site.trusted_entities else []
    # By its file: -m would look for fedapp where the node works, which is no place of ours.
    quick = [sys.executable, "-P", str(Path(quick_supernode.__file__))]
    return [
        *(quick if site.supernode == QUICK else ["flower-supernode"]),
        *("--superlink", address(site.host, site.port)),
        *("--root-certificates", str(site.authority), "--auth-supernode-private-key", str(site.key)),
        *("--host", LOOPBACK, "--port", str(runtime_port)),
        *("--node-config", named, *trusted),
    ]


def environment(home: Path) -> dict[str, str]:
    """Environment of Flower's programs for one folder.

    Args:
        home: Flower's home; each server and party has its own, so that none reads another's settings.
    """
    inherited = {key: value for key, value in os.environ.items() if key != POLICY_VARIABLE}
    return (
        inherited
        | variables(home)
        | {
            "PYTHONUNBUFFERED": "1",
            # Flower finds its helpers by name.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        }
    )


def variables(home: Path) -> dict[str, str]:
    """What of the environment a person would have to set, too."""
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    }


def as_shell(command: Sequence[str], set_to: Mapping[str, str] | None = None) -> str:
    """A command as one would type it, an argument with its value to a line."""
    lines = [f"{key}={shlex.quote(value)}" for key, value in (set_to or {}).items()]
    line = ""
    for word in command:
        if word.startswith("-") and line:
            lines.append(line)
            line = ""
        line = f"{line} {shlex.quote(word)}".strip()
    return " \\\n    ".join([*lines, line])


def connection(site: ServerSite) -> str:
    """Flower's ``config.toml`` for the server's folder."""
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "{LOOPBACK}:{site.control_port}"\nroot-certificates = {quoted(str(site.authority))}\n'
    )


def quoted(text: str) -> str:
    """A text as a TOML string on one line.

    Raises:
        ValueError: If it holds what such a string cannot.
    """
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    raise ValueError(f"{text!r} must be a path without quotes and line breaks")
