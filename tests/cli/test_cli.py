"""The command line: exit codes, one line per error, run folders, progress."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest
from rich.console import Console

import fedapp.cli.run
import fedapp.core.files
import fedapp.planning.job
from fedapp import __version__
from fedapp.cli.list import print_choices
from fedapp.cli.main import main
from fedapp.cli.progress import BarDisplay, PlainDisplay, RunState, describe_seconds, make_display
from fedapp.config.choices import choices
from fedapp.config.compose import load_config
from fedapp.config.overrides import quote
from fedapp.core.files import ROOT
from fedapp.planning.job import absolute_paths
from fedapp.records.rows import ScoreRow
from fedapp.records.summary import summarise
from fedapp.records.table import show_summary
from tests.engines.toy_cli import use_toy_app

TOY_CLI = ROOT / "tests" / "engines" / "toy_cli.py"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """``fedapp run`` runs the toy app in process; yields the folder of the runs."""
    monkeypatch.setattr(fedapp.core.files, "CONF", fedapp.core.files.CONF)
    monkeypatch.setattr(fedapp.cli.run, "look_ahead", fedapp.cli.run.look_ahead)
    monkeypatch.setattr(fedapp.planning.job, "find_app", fedapp.planning.job.find_app)
    apps = {name: sys.modules.get(name) for name in ("server_app", "client_app")}
    use_toy_app(tmp_path)
    yield tmp_path / "runs"
    for name, module in apps.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def errors(capsys) -> str:
    """What went to standard error; the fact that it is one line of ours."""
    text = capsys.readouterr().err
    assert re.fullmatch(r"fedapp: error: [^\n]+\n", text), text
    return text


def test_a_run_ends_with_table_run_folder_and_status_0(toy, capsys):
    assert main(["run", "seed=7"]) == 0
    output = capsys.readouterr().out
    (run_dir,) = toy.iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-toy-toy-s7", run_dir.name)
    assert "toy on toy: 2 clients, 2 rounds" in output
    assert "round 2/2: loss 0.5000, test-accuracy 0.5, 2/2 clients" in output
    assert output.index("worst client 50.0") < output.index(f"run folder: {run_dir}")
    assert "hello from the server app" in (run_dir / "log.txt").read_text()
    assert "hello" not in output


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "the server app fell over"),
        ("exit", "the server app left with exit code 7"),
        ("clients", "round 1: there is no data here"),
    ],
)
def test_a_failed_run_has_status_1_one_line_and_its_log(toy, capsys, fault, reason):
    assert main(["run", f"fault={fault}"]) == 1
    (run_dir,) = toy.iterdir()
    assert errors(capsys) == f"fedapp: error: {reason} (log: {run_dir / 'log.txt'})\n"
    assert "Traceback" in (run_dir / "log.txt").read_text()


def test_an_app_that_cannot_be_imported_is_named(toy, capsys):
    (toy.parent / "app" / "client_app.py").write_text("import not_there")
    sys.modules.pop("client_app", None)
    assert main(["run"]) == 1
    assert "client_app cannot be imported: No module named 'not_there'" in errors(capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=tyo"], "method=tyo does not exist; did you mean toy?"),
        (["num_round=3"], "num_round is not a setting; did you mean num_rounds"),
        (["num_clients=0"], "num_clients=0 must be a whole number of at least 1"),
        (["engine=flower"], "engine=flower does not exist; did you mean flwr?"),
        (["method"], "'method' cannot be read: a setting is written KEY=VALUE"),
        (["~method"], "~method cannot be used: no run can do without method"),
        (["run_dir="], "run_dir='' must name a folder"),
        (["runs_dir=null"], "runs_dir=null must name a folder"),
        (["-m", "runs_dir=", "seed=1,2"], "runs_dir='' must name a folder"),
        (["-m", "seed=1,[2"], "'seed=1,[2' cannot be read: a bracket or a quotation mark is not closed"),
        (["-m", "seed=1,2", "num_rounds=1,0"], "seed=1 num_rounds=0: num_rounds=0 must be a whole number"),
        (["-m", "engine=local,flower"], "engine=flower does not exist; did you mean flwr?"),
        (["-m", "method=toy,tyo"], "method=tyo does not exist; did you mean toy?"),
        (["-m", "num_round=3,4"], "num_round is not a setting; did you mean num_rounds"),
    ],
)
def test_bad_settings_have_status_2_and_leave_nothing(toy, capsys, words, says):
    assert main(["run", *words]) == 2
    assert says in errors(capsys)
    assert not toy.exists() or not list(toy.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean run?"),
        (
            ["run", "--multrun"],
            "--multrun'; did you mean --multirun? (see: fedapp run --help)",
        ),
        (
            ["report", "--xyz"],
            "'--xyz'; known: --benchmark, --help, --metric, --open, --out (see: fedapp report",
        ),
        (["report", "--to", "page.html"], "unknown argument '--to'; did you mean --out? (see: fedapp report"),
        (["run", "--xyz"], "unknown argument '--xyz'; known: --cfg, --dry-run, --help, --multirun (see"),
        (["list", "--x"], "unknown argument '--x'; known: --help (see: fedapp list --help)"),
        (["--foo"], "unknown argument '--foo'; known: --help, --version (see: fedapp --help)"),
        (["--verson"], "unknown argument '--verson'; did you mean --version?"),
        (["compare", "/not/there"], "/not/there does not exist"),
        (["list", "metods"], "there is no list of 'metods'; did you mean methods?"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_has_status_2_and_one_line(capsys, words, says):
    try:
        code = main(words)
    except SystemExit as leave:
        code = leave.code
    assert code == 2
    assert says in errors(capsys)


def test_overrides_may_stand_around_a_flag(toy, capsys):
    assert main(["run", "seed=1,2", "--multirun", "fault=crash"]) == 1
    assert "0 of 2 runs complete" in capsys.readouterr().out


def test_a_stranger_called_client_app_is_not_mistaken_for_ours(toy, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "client_app", ModuleType("client_app"))
    assert main(["run"]) == 0


def test_in_a_sweep_a_failed_job_does_not_stop_the_next(toy, capsys):
    assert main(["run", "-m", "fault=crash,none", "seed=1,2"]) == 1
    captured = capsys.readouterr()
    assert "2 of 4 runs complete" in captured.out
    assert captured.err.endswith(
        "fedapp: error: 2 of 4 runs failed: [1] fault=crash seed=1, [2] fault=crash seed=2\n"
    )
    (sweep,) = toy.iterdir()
    complete = [path.parent.name for path in sweep.glob("*/summary.json")]
    assert len([path for path in sweep.iterdir() if path.name not in ("jobs", "sweep.json")]) == 4
    assert sorted(name.split("-s")[1][0] for name in complete) == ["1", "2"]


def test_a_sweep_is_checked_as_a_whole_before_its_first_job(tmp_path, capsys):
    settings = ["model=toy", "benchmark=toy", "adapter=toy", f"runs_dir={tmp_path}"]
    assert main(["run", "-m", *settings, "engine=local,flwr", "adapter.size=4,-1"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fedapp: error: engine=local adapter.size=-1: adapter.size=-1")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(toy, monkeypatch, capsys):
    monkeypatch.setattr(fedapp.planning.job, "datetime", _StoppedClock)
    assert [main(["run"]), main(["run"])] == [0, 0]
    assert sorted(path.name for path in toy.iterdir()) == [
        "20260102-030405-toy-toy-s1",
        "20260102-030405-toy-toy-s1-2",
    ]


class _StoppedClock:
    @staticmethod
    def now():
        return _StoppedClock()

    def strftime(self, form: str) -> str:
        return time.strftime(form, (2026, 1, 2, 3, 4, 5, 0, 1, 0))


def test_a_run_folder_that_is_in_use_is_refused(toy, capsys, tmp_path):
    folder = tmp_path / "mine"
    assert main(["run", f"run_dir={folder}"]) == 0
    capsys.readouterr()
    assert main(["run", f"run_dir={folder}"]) == 2
    assert "is not empty" in errors(capsys)


def test_the_run_folder_may_have_any_name(toy, capsys, tmp_path):
    folder = tmp_path / "my own (first) run"
    assert main(["run", f"run_dir={quote(str(folder))}"]) == 0
    assert (folder / "summary.json").exists()


@pytest.mark.parametrize(
    "text", ["/plain/path", "with space", "a'b", "a\\'b", "a=b,c:[d]{e}", "ends with \\", "ü $x %"]
)
def test_a_quoted_value_is_read_back_as_it_is(text):
    words = shlex.split(shlex.join([f"runs_dir={quote(text)}"]))
    assert load_config(["model=toy", "adapter=toy", "benchmark=toy", *words])["runs_dir"] == text


def test_paths_are_made_absolute_and_names_are_not(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = {
        "benchmark": {"data_dir": "data/x", "name": "glue"},
        "model": {"path": "./m", "hub": "a/b"},
        "n_dir": None,
    }
    assert absolute_paths(config) == {
        "benchmark.data_dir": str(tmp_path / "data/x"),
        "model.path": str(tmp_path / "m"),
    }
    assert absolute_paths({"data_dir": "/there"}) == {}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_everywhere_and_keeps_its_folder(tmp_path, number, status):
    command = [sys.executable, str(TOY_CLI), str(tmp_path), "run", "fault=sleep"]
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/events.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (status, "fedapp: error: interrupted\n")
    (run_dir,) = tmp_path.glob("runs/*")
    reason = f"interrupted by {number.name}"
    about = json.loads((run_dir / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", reason)
    end = json.loads((run_dir / "events.jsonl").read_text().splitlines()[-1])
    assert (end["event"], end["status"], end["message"]) == ("end", "failed", reason)
    assert reason in (run_dir / "log.txt").read_text()


def test_help_and_version_are_quick_and_load_nothing_heavy():
    code = (
        "import sys; from fedapp.cli.main import main\n"
        "for word in ('--help', '--version'):\n"
        "    try: main([word])\n"
        "    except SystemExit as leave: assert leave.code == 0\n"
        "heavy = {'torch', 'flwr', 'hydra', 'numpy', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"fedapp {__version__}" in done.stdout
    assert "run" in done.stdout
    assert "list" in done.stdout


def test_python_m_fedapp_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "fedapp", "lsit"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_list_shows_every_choice_with_its_description(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for kind, names in choices().items():
        assert f"{kind} (" in output
        for name, description in names.items():
            assert re.search(rf"^  {re.escape(name)} +\S", output, re.MULTILINE), (
                f"{kind[:-1]}/{name}: no description"
            )
            assert description in output


def test_list_can_show_one_group_and_falls_back_on_the_first_comment(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "a.yaml").write_text("about:\n  description: first\n  name: a\n")
    (tmp_path / "method" / "bcd.yaml").write_text("# @package _global_\n# second\nname: b\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.yaml").write_text("description: third\n")
    stream = io.StringIO()
    print_choices(["method"], stream, tmp_path)
    assert stream.getvalue() == "methods (method=…)\n  a    first\n  bcd  second\n"


START = {"event": "start", "num-rounds": 2, "clients": [0, 1], "method": "m", "benchmark": "b"}


def reply(client_id: int, server_round: int = 1, loss: float | None = 1.0, phase: str = "train"):
    names = {"client-id": client_id, "server-round": server_round}
    return {"event": "reply", "phase": phase, "loss": loss, **names}


def done(server_round: int, **facts: object):
    return {"event": "round", "server-round": server_round, "metrics": {}, **facts}


def test_progress_counts_rounds_and_the_part_of_the_round_under_way():
    state = RunState()
    for event in (START, reply(0), reply(1), done(1)):
        state.update(event)
    assert (state.server_round, state.done) == (1, 1.0)
    state.update(reply(0, 2, loss=0.25))
    assert (state.done, state.loss, state.answered) == (1.5, 0.25, {0})  # one of two replies of round 2
    for event in (reply(1, 2), done(2), reply(0, 2, phase="evaluate")):
        state.update(event)
    assert (state.done, state.evaluating) == (2.0, True)


def test_time_left_is_in_proportion(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fedapp.cli.progress.time.monotonic", lambda: now[0])
    state = RunState()
    state.update(START)
    assert state.seconds_left is None
    now[0] = 130.0
    for event in (reply(0), reply(1), done(1)):
        state.update(event)
    assert state.seconds_left == 30.0  # one of two rounds took 30 s
    assert [describe_seconds(s) for s in (30.0, 600, 9000)] == ["30 s", "10 min", "2.5 h"]


def test_plain_lines_one_per_round_and_warning():
    stream = io.StringIO()
    with PlainDisplay(stream, "opening") as display:
        for event in (START, reply(0, loss=1.0), reply(1, loss=2.0), done(1, metrics={"test-accuracy": 0.5})):
            display.update(event)
        display.update({"event": "warning", "message": "client 1\nwas left out"})
        display.update({"event": "something-new"})
        display.update(done(2, phase="evaluate"))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["opening", "m on b: 2 clients, 2 rounds"]
    assert lines[2].startswith("round 1/2: loss 1.5000, test-accuracy 0.5, 2/2 clients, ")
    assert lines[3] == "warning: client 1 was left out"
    assert lines[4].startswith("round 2/2, evaluation: 0/2 clients, ")
    assert len(lines) == 5


def test_on_a_terminal_a_bar_shows_rounds_clients_loss_and_time_left():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with BarDisplay(console, "opening [x]") as display:
        for event in (START, reply(0), reply(1), done(1), reply(1, 2, loss=0.125)):
            display.update(event)
        display._bar.refresh()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
        display.update({"event": "end"})
    assert "opening [x]" in text
    assert re.search(r"round 2/2 .*clients 1/2  loss 0\.125  \d+ s left", text)


@pytest.mark.parametrize("kind", ["plain", "bar"])
def test_what_a_run_waits_for_is_shown_at_80_columns_and_without_colour(kind, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with PlainDisplay(stream, "opening") if kind == "plain" else BarDisplay(console, "opening") as display:
        display.update({"event": "joining", "num-clients": 4})
        if isinstance(display, BarDisplay):
            display._bar.refresh()
        waiting = len(stream.getvalue())
        for event in (START, reply(0, loss=0.125), done(1)):
            display.update(event)
    shown = stream.getvalue()
    assert "4 clients loading data and model" in shown[:waiting]
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", shown)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80


def test_a_stream_that_is_no_terminal_gets_plain_lines():
    assert isinstance(make_display(io.StringIO(), ""), PlainDisplay)


def test_the_summary_is_printed_as_a_table(tmp_path):
    tests = [("base", "before", 0.5), ("own", "after", 0.123456)]
    rows = [ScoreRow(1, 0, "test", *kind, metrics={"accuracy": score}) for *kind, score in tests]
    summary = summarise(rows, {0: {"tasks": ["[b]"], "train": 3}}, []).to_json()
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    stream = io.StringIO()
    show_summary(tmp_path, stream)
    words = [line.split() for line in stream.getvalue().splitlines()]
    heading = ["client", "tasks", "train", "test", "base", "round", "1", "final", "sent", "received"]
    row = ["0", "[b]", "3", "-", "50.0", "12.3", "–", "0", "B", "0", "B"]
    mean = ["mean", "-", "-", "50.0", "12.3", "–", "0", "B", "0", "B"]
    note = [
        "accuracy",
        "on",
        "each",
        "client's",
        "own",
        "test",
        "set,",
        "in",
        "%;",
        "bytes",
        "are",
        "payload",
        "of",
        "all",
        "rounds",
    ]
    for expected in (heading, row, mean, note):
        assert expected in words
    assert words[-1] == ["run", "folder:", str(tmp_path)]
