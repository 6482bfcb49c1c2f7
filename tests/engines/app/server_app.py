"""A server that says what a run's server says, and fails the way its overrides ask for."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Two rounds with two clients."""
    words = shlex.split(str(context.run_config["overrides"]))
    told = dict(word.split("=", 1) for word in words)
    events = Path(told["run_dir"].strip("'")) / "events.jsonl"

    def say(event: str, **facts: Any) -> None:
        with events.open("a") as file:
            facts = {name.replace("_", "-"): value for name, value in facts.items()}
            file.write(json.dumps({"event": event, **facts}) + "\n")

    fault = told.get("fault", "none")
    if fault == "crash":
        raise RuntimeError("the server app fell over")
    if fault == "exit":
        sys.exit(7)
    print("hello from the server app")
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.05)
    nodes = list(grid.get_node_ids())
    say("start", num_rounds=2, clients=[0, 1], method="toy", benchmark="toy", nodes=sorted(nodes))
    for server_round in (1, 2):
        content = RecordDict({"told": ConfigRecord({"fault": fault})})
        messages = [Message(content, node, "train", group_id=str(server_round)) for node in nodes]
        replies = list(grid.send_and_receive(messages, timeout=120))
        for reply in (reply for reply in replies if not reply.has_error()):
            client_id = reply.content["reply"]["client-id"]
            say("reply", server_round=server_round, phase="train", client_id=client_id, loss=0.5, seconds=0.1)
        failures = [reply for reply in replies if reply.has_error()]
        if failures:
            say("warning", message=f"a client failed: {failures[0].error.reason}")
        if len(failures) == len(replies):
            say("end", status="failed", message=f"round {server_round}: {failures[0].error.reason}")
            raise RuntimeError("no reply")
        say("round", server_round=server_round, metrics={"test-accuracy": 0.25 * server_round})
    sizes = {"sent-bytes": 8, "received-bytes": 8}
    scores = {"base-score": None, "first-round-score": None, "final-score": 0.5}
    one = {"client-id": 0, "tasks": ["toy"], "train-rows": 2, "test-rows": None, **scores, **sizes}
    summary = {
        "metric": "accuracy",
        "clients": [one, {**one, "client-id": 1}],
        "mean": {"client-ids": [0, 1], **scores},
        "final": {"num-clients": 2, "mean-score": 0.5, "worst-client-id": 0, "worst-score": 0.5},
        "best-round": None,
        "total": sizes,
        "hostile-clients": [],
        "left-out": [],
    }
    (events.parent / "summary.json").write_text(json.dumps(summary))
    say("end", status="completed", message="")
