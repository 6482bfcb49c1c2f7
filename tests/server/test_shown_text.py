"""What others wrote reaches terminal, log and tables with its control characters escaped."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedapp.cli import output
from fedapp.cli.progress import BarDisplay, PlainDisplay
from fedapp.engines.grid import Network
from fedapp.records.table import TASKS_SHOWN, print_notes, print_table, show_summary
from fedapp.server.transport import UnreadableReply, ask
from fedapp.wire.records import Envelope, pack, unpack
from tests.federation import run_toy

EVIL = "a\x1b[2J\x1b]0;x\x07b\x9bc\u202ed\u2066e\ud800f\rg"
UNSAFE = set("\x1b\x07\x9b\u202e\u2066\ud800\r")


def assert_safe(text):
    assert not UNSAFE & set(text), ascii(text)
    assert r"\x1b[2J" in text
    assert r"\u202e" in text
    text.encode("utf-8")


@pytest.mark.parametrize("speak", [output.complain, output.warn])
def test_the_command_lines_complaints(speak, capsys):
    speak(f"it says {EVIL}")
    assert_safe(capsys.readouterr().err)


def test_tables_and_the_notes_below_them_lines_of_a_cell_stay():
    stream = io.StringIO()
    print_table(("one", EVIL), [[f"{EVIL}\nsecond line", 1]], stream)
    print_notes([EVIL], stream)
    assert_safe(stream.getvalue())
    assert any("second line" in line and "x1b" not in line for line in stream.getvalue().splitlines())


def test_both_displays():
    events = [
        {"event": "start", "num-rounds": 1, "clients": [0], "method": EVIL, "benchmark": "b"},
        {"event": "warning", "message": EVIL},
        {"event": "round", "server-round": 1, "metrics": {EVIL: 1.0}},
    ]
    for make in (
        lambda s: PlainDisplay(s, "hello"),
        lambda s: BarDisplay(Console(file=s, width=300), "hello"),
    ):
        stream = io.StringIO()
        with make(stream) as display:
            for event in events:
                display.update(event)
        assert_safe(stream.getvalue())


def test_a_run_whose_client_sends_escapes_in_names_and_failures(tmp_path, capsys):
    def tamper(client_id, reply):
        if reply.metadata.message_type == "query" or client_id > 1:
            return reply
        envelope = unpack(reply.content)
        about = {**envelope.facts["about"], "tasks": [EVIL, *(f"task {n}" for n in range(40))]}
        facts = {**envelope.facts, **({"failure": EVIL} if client_id else {"about": about})}
        reply.content.update(pack(Envelope(facts, envelope.payload)))
        return reply

    settings = ["num_rounds=1", "round_timeout=30"]
    run = run_toy(tmp_path / "run", *settings, network=Network(tamper=tamper))
    said = capsys.readouterr()
    assert_safe(said.out)  # the table: names of tasks
    assert_safe(said.err)  # warnings, as in log.txt: the failure
    assert f"{41 - TASKS_SHOWN} more" in " ".join(said.out.split())
    for name in ("run.json", "events.jsonl", "summary.json", "metrics.jsonl"):
        text = (run.folder / name).read_text()
        assert not UNSAFE & set(text)
    assert any(r"client 1 is left out: a\x1b[2J" in warning for warning in run.warnings())
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # strict, as a terminal
    show_summary(run.folder, stream)
    assert json.loads((run.folder / "summary.json").read_text())["clients"][0]["tasks"][0] == EVIL


class Grid:
    """Gives what it was told to give, or raises it."""

    def __init__(self, *pulls):
        self.pulls = list(pulls)

    def push_messages(self, messages):
        return [str(number) for number, _ in enumerate(messages)]

    def pull_messages(self, message_ids):
        found = self.pulls.pop(0) if len(self.pulls) > 1 else self.pulls[0]
        if isinstance(found, Exception):
            raise found
        return found


def sent(count):
    return [SimpleNamespace(metadata=SimpleNamespace(dst_node_id=1)) for _ in range(count)]


def test_a_reply_that_flower_cannot_read_is_lost_and_the_others_are_not(monkeypatch):
    monkeypatch.setattr(sys.modules["fedapp.server.transport"], "POLL_SECONDS", 0.0)
    good = [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=str(n))) for n in (0, 2)]
    told = []
    grid = Grid(KeyError(EVIL), good[:1], ValueError("no chunk"), good[1:])
    assert ask(grid, sent(3), 0.05, lambda reply: None, told.append) == good
    assert [text.split(": ")[0] for text in told] == [
        "a reply is no message of Flower's, it is lost with those that came along"
    ] * 2
    assert told[0].isprintable()
    with pytest.raises(UnreadableReply):
        ask(Grid(ValueError("the grid itself")), sent(3), 60.0, lambda reply: None, told.append)
    with pytest.raises(ConnectionError):
        ask(Grid(ConnectionError()), sent(1), 60.0, lambda reply: None, told.append)
