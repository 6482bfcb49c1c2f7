"""Texts in a site's folders: policies, start scripts, units, compose and nginx files."""

from __future__ import annotations

from fedapp.site.layout import PartySite, ServerSite, address

# Of Flower's calls from parties the largest is a piece of an adapter, 5 MiB; a failed one is repeated.
BODY = "32m"


def policy(site: PartySite) -> str:
    """A party's policy: the strict one, with folders of its own."""
    return f"""\
# What a run may ask of party {site.party}, and what may leave (docs/security.md has every key).
# Folders are below this file's, unless they begin with /.
data: data             # this party's rows: data/<task>/train.jsonl and test.jsonl
models: []             # folders of base models, ids of the hub; beside them only what comes with fedapp
output: output         # this party's final adapter; it stays here
memory: state/memory   # what its client must remember between rounds, so that its node can be started again
log: state/audit.jsonl # what was asked, what left
methods: []            # such as [fedreft, fedit]; empty: all
network: false         # whether a run may make this party fetch data or models
hostile: false
max_upload: 1 GiB
share:                 # what may leave
  arrays: true
  texts: false
  scores: true
  label_counts: false
  row_counts: true
  task_names: false
  seconds: true
  fingerprint: true
  reasons: true
"""


def start_script(role: str) -> str:
    """A script that starts what a folder is for; the folder may be moved."""
    return f"""\
#!/bin/sh
# fedapp must be installed on this machine; FEDAPP names its command where it is not on the PATH.
exec "${{FEDAPP:-fedapp}}" site {role} "$(cd "$(dirname "$0")" && pwd)"
"""


def unit(what: str) -> str:
    """A systemd unit for the folder of ``server`` or of a party."""
    return f"""\
# Put this folder to /etc/fedapp/{what}, this file to /etc/systemd/system/fedapp-{what}.service, then
#   systemctl daemon-reload && systemctl enable --now fedapp-{what}
[Unit]
Description=fedapp federation, {what}
Wants=network-online.target
After=network-online.target

[Service]
User=fedapp
Environment=FEDAPP=/opt/fedapp/.venv/bin/fedapp
Environment=XDG_CACHE_HOME=/etc/fedapp/{what}/state/cache
ExecStart=/etc/fedapp/{what}/start.sh
Restart=on-failure
RestartSec=30
KillMode=control-group
TimeoutStopSec=60
NoNewPrivileges=true
ProtectSystem=strict
PrivateTmp=true
ReadWritePaths=/etc/fedapp/{what}

[Install]
WantedBy=multi-user.target
"""


def compose(role: str, site: ServerSite | PartySite) -> str:
    """A compose file; the image is one in which fedapp is installed (docs/deployment.md)."""
    what = "server" if isinstance(site, ServerSite) else f"party-{site.party}"
    ports = f'    ports: ["{site.port}:{site.port}"]\n' if isinstance(site, ServerSite) else ""
    return f"""\
# docker compose up -d; the image: docs/deployment.md, "Containers"
services:
  {what}:
    image: fedapp:latest
    command: ["fedapp", "site", "{role}", "/site"]
{ports}    volumes: [".:/site"]
    init: true
    restart: unless-stopped
"""


def nginx(site: ServerSite) -> str:
    """The parties' door as nginx has it; for ``gate: none`` in site.yaml."""
    host, port = site.host, site.port
    bind = address(site.bind, port)
    return f"""\
# Passes on what parties call, and nothing else: runs are submitted and keys registered under /v1/control/.
# Set gate: none in site.yaml, and include this file within nginx's http {{ }}. No other way may lead to
# port {site.control_port}, where Flower's SuperLink listens on 127.0.0.1 and asks nobody who calls.
server {{
    listen {bind} ssl;
    server_name {host};
    ssl_certificate     {site.certificate};
    ssl_certificate_key {site.key};
    client_max_body_size {BODY};

    location ~ ^/v1/fleet/[a-z-]+$ {{
        proxy_pass https://127.0.0.1:{site.control_port};
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {site.authority};
        proxy_ssl_name localhost;
        proxy_request_buffering off;
        proxy_read_timeout 600s;
    }}
    location / {{ return 404; }}
}}
"""


def read_me(site: ServerSite) -> str:
    """What is in the folder, and who gets what."""
    parties = "\n".join(
        f"party-{party}/     to party {party} alone, over a safe way: party.key is who it is"
        for party in range(site.parties)
    )
    return f"""\
A federation of {site.parties} parties behind {address(site.host, site.port)}, made by `fedapp site init`.

authority/   stays here, offline: who has ca.key can pass for the server
server/      to the server {site.host}
{parties}

On the server:   fedapp site server server
At a party:      fedapp doctor party party-0 && fedapp site party party-0
A run:           fedapp site submit --server server benchmark=own partitioner=private --wait

docs/deployment.md goes through it step by step.
"""
