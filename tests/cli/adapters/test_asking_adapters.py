"""A kept adapter asked for answers: rows of a file, lines of a terminal."""

from __future__ import annotations

import io
import json
import shutil

import pytest

from fedapp.cli.adapters.kept import attached
from fedapp.cli.adapters.predict import predict
from fedapp.cli.main import main
from tests import tiny_models
from tests.cli.adapters.kept_adapters import LORA, keep, save_model
from tests.training.test_chat import TEMPLATE as CHAT

ROWS = [{"prompt": "w1 w2"}, {"prompt": "w3", "target": "w4", "task": "t"}]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    return keep(root / "adapter", save_model(root / "model", "Llama"), LORA)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def expected(kept, *prompts):
    with attached(kept) as found:
        return found.model.generate(list(prompts))


def test_each_row_is_answered_in_the_benchmarks_template(kept, rows):
    out = io.StringIO()
    predict(kept, rows, out)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["completion"] for one in told] == expected(kept, "w9 w1 w2", "w9 w3")
    assert [one["row"] for one in told] == [0, 1]
    assert told[0]["completion"]


def test_answers_can_go_to_a_file(kept, rows, tmp_path, capsys):
    assert main(["predict", str(kept), str(rows), "--to", str(tmp_path / "a.jsonl")]) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    assert capsys.readouterr().out == ""


def test_longer_answers_can_be_asked_for(kept, rows):
    lengths = []
    for longest in (1, 4):
        out = io.StringIO()
        predict(kept, rows, out, max_new_tokens=longest)
        lengths.append(len(json.loads(out.getvalue().splitlines()[0])["completion"].split()))
    assert lengths == [1, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "w1"}\nhello\n', "line 2, is no JSON"),
        ("[1]\n", "line 1, is no JSON object"),
        ('{"text": "w1"}\n', "line 1, has no column 'prompt', and no prompt; it has: text"),
        ('{"prompt": 3}\n', "line 1: one of prompt is of a wrong type"),
        ("\n", "holds no row"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_rows_is_one_line_and_no_answer(kept, tmp_path, capsys, text, said):
    file = tmp_path / "rows.jsonl"
    if text is not None:
        file.write_text(text)
    assert main(["predict", str(kept), str(file), "--to", str(tmp_path / "a.jsonl")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("command", [["predict", "rows.jsonl"], ["chat"], ["export", "x"], ["merge", "x"]])
def test_what_is_no_adapter_is_one_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main([command[0], str(tmp_path), *command[1:]]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path} holds no adapter" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run", "run holds no adapter: it is that of a run; name one of run/adapters/client-0, "),
        ("run/adapters", "it is that of a run; name one of run/adapters/client-0, run/adapters/client-1 …"),
        ("failed", "failed holds no adapter: it is that of a run that keeps none: it has not ended well, or"),
        ("exported", "it is an export or a model; what it was made of can be used: RUN/adapters/client-0"),
        ("nowhere", "nowhere holds no adapter: there is no such folder"),
    ],
)
def test_what_was_given_instead_of_an_adapter_is_told(kept, tmp_path, monkeypatch, capsys, given, said):
    monkeypatch.chdir(tmp_path)
    for number in (0, 1):
        shutil.copytree(kept, tmp_path / "run" / "adapters" / f"client-{number}")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "run.json").write_text("{}")
    assert main(["export", str(kept), "exported"]) == 0
    assert main(["chat", given]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (
            "rows.jsonl",
            "--to rows.jsonl is the file that is read; it must be a file to write, such as answers",
        ),
        ("nowhere/a.jsonl", "--to nowhere/a.jsonl lies in nowhere, which does not exist"),
        (".", "--to . is a folder"),
    ],
)
def test_where_answers_cannot_go_is_told_before_any_is_made(kept, rows, monkeypatch, capsys, to, said):
    monkeypatch.chdir(rows.parent)
    monkeypatch.setattr("fedapp.cli.adapters.predict.attached", None)
    before = rows.read_bytes()
    assert main(["predict", str(kept), "rows.jsonl", "--to", to]) == 2
    assert said in capsys.readouterr().err
    assert rows.read_bytes() == before


def changed(kept, folder, **values):
    shutil.copytree(kept, folder)
    about = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**about, **values}))
    return folder


def test_an_adapter_of_another_base_is_one_line(kept, rows, tmp_path, capsys):
    other = changed(kept, tmp_path / "other", **{"base-fingerprint": "f" * 64})
    assert main(["predict", str(other), str(rows)]) == 2
    told = capsys.readouterr().err
    assert "belongs to the base model ffffffffffffffff, the one found here is " in told
    assert told.count("\n") == 1


def test_an_adapter_from_elsewhere_makes_no_class_that_a_config_may_not_name(kept, rows, tmp_path, capsys):
    other = changed(kept, tmp_path / "other", benchmark={"_target_": "os.system", "command": "true"})
    assert main(["predict", str(other), str(rows)]) == 2
    assert "os.system" in capsys.readouterr().err


def test_a_chat_answers_each_line_and_can_ask_the_base_alone(kept, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("w1 w2\n/base\n/raw\nw1 w2\n/what\n/quit\nw5\n"))
    assert main(["chat", str(kept)]) == 0
    told = capsys.readouterr().out.splitlines()
    with attached(kept) as found:
        own, raw = found.model.generate(["w9 w1 w2", "w1 w2"])
        with found.model.disabled():
            (base,) = found.model.generate(["w9 w1 w2"])
    assert told[:4] == [own, base, "lines are whole prompts", raw]
    assert own != base
    assert told[4].startswith("no such command")
    assert len(told) == 9  # the help has four lines; nothing after /quit


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """An adapter of a model with a chat template and a window of 48 tokens."""
    root = tmp_path_factory.mktemp("chatty")
    model = save_model(root / "model", "Llama")
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template, tokenizer.model_max_length = CHAT, 48
    tokenizer.save_pretrained(model)
    return keep(root / "adapter", model, LORA, template="chat")


def test_a_chat_keeps_the_conversation(chatty, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("w1 w2\nw3\n/base\n/new\nw3\n"))
    assert main(["chat", str(chatty)]) == 0
    told = capsys.readouterr().out.splitlines()
    with attached(chatty) as found:
        (first,) = found.model.generate(["w9 w1 w2"])
        turns = ["w9 w1 w2", first, "w9 w3"]
        second = found.model.reply(turns)[0]
        (alone,) = found.model.generate(["w9 w3"])
        with found.model.disabled():
            base = found.model.reply(turns)[0]
    assert told == [first, second, base, "a new conversation", alone]
    assert second != alone


def test_a_chat_says_what_it_forgets_when_the_window_is_full(chatty, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("w1 w2\n" * 4))
    assert main(["chat", str(chatty)]) == 0
    told = capsys.readouterr().out.splitlines()
    full = "(the model's window is full: your first line and its answer are forgotten)"
    assert told.count(full) == len(told) - 4 > 0
    assert full not in told[:2]


def test_a_chat_ends_with_its_input(kept, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("w1"))
    assert main(["chat", str(kept)]) == 0
    assert capsys.readouterr().out.splitlines() == expected(kept, "w9 w1")
