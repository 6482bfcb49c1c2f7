"""The user's own folder: tasks, formats of rows, answers, and what is refused."""

import json

import pytest
from datasets import Dataset, DatasetDict

from fedapp.benchmarks import own as own_module
from fedapp.benchmarks.own import Own
from fedapp.client.party import OFFLINE
from fedapp.config.build import build
from fedapp.config.compose import load_config
from fedapp.core.errors import RowError
from fedapp.core.files import POLICY_VARIABLE
from tests.federation import run_toy

SECRET = "s3cr3t"


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


@pytest.fixture
def folder(tmp_path):
    for task, answer in (("beta", "no"), ("alpha", "yes")):
        for split, count in (("train", 10), ("test", 4)):
            rows = [{"prompt": f"{task} {split} {i}?", "target": f" {answer}\n"} for i in range(count)]
            write(tmp_path / "mine" / task / f"{split}.jsonl", *rows)
    return tmp_path / "mine"


@pytest.fixture
def pairs(tmp_path):
    """Prompts and targets of rows that stand in one file, as ``own`` reads them."""

    def read(*rows, **settings):
        write(tmp_path / "own" / "a" / "train.jsonl", *rows)
        own = Own(str(tmp_path / "own"), **settings)
        return [(row["prompt"], row["target"]) for row in own.load("train")]

    return read


def test_every_folder_is_a_task_but_hidden_ones(folder):
    write(folder / ".ipynb_checkpoints" / "train.jsonl", "no rows")
    rows = Own(str(folder)).load("train")
    assert rows["task"][:] == ["alpha"] * 10 + ["beta"] * 10
    assert set(Own(str(folder), tasks=["beta"]).load("test")["task"]) == {"beta"}


def test_a_row_becomes_an_example(folder):
    own = Own(str(folder), labels=["no", "yes"], prompt="Q: {prompt}\nA:")
    example = own.template(own.load("test")[0])
    assert (example.prompt, example.target, example.task, example.label) == (
        "Q: alpha test 0?\nA:",
        "yes",
        "alpha",
        1,
    )


# The kinds of ../shared/cases, made here.


def test_one_odd_number_changes_no_other(pairs):
    given = ["1", "2.5", "3", '"4"', "1e3"]
    found = pairs(*(f'{{"prompt": "p", "target": {value}}}' for value in given))
    assert [target for _, target in found] == ["1", "2.5", "3", "4", "1e3"]


def test_nan_is_refused_with_file_and_line(pairs):
    with pytest.raises(
        RowError, match=r"^benchmark.data_dir: a/train.jsonl line 2: target is NaN or infinite"
    ):
        pairs('{"prompt": "p", "target": 1}', '{"prompt": "p", "target": NaN}')


def test_true_and_false_stay_as_they_stand_also_among_labels(pairs, tmp_path):
    assert pairs('{"prompt": "p", "target": true}') == [("p", "true")]
    assert Own(str(tmp_path / "own"), labels=[False, True]).load("train")["label"][:] == [1]


def test_tasks_of_different_types_and_columns_that_nobody_reads_are_no_trouble(tmp_path):
    write(tmp_path / "maths" / "train.jsonl", {"prompt": "1+1", "target": 2, "id": 0})
    write(
        tmp_path / "words" / "train.jsonl",
        {"prompt": "a", "target": "b", "id": "x"},
        {"prompt": 5, "target": 1.0},
    )
    rows = Own(str(tmp_path)).load("train")
    assert rows["target"][:] == ["2", "b", "1.0"]
    assert rows["prompt"][:] == ["1+1", "a", "5"]


def test_a_byte_order_mark_is_no_part_of_the_rows(pairs):
    assert pairs('\ufeff{"prompt": "p", "target": "t"}') == [("p", "t")]


def test_numbers_are_names_of_folders(tmp_path):
    for name in ("0", "1", "1.5", "true"):
        write(tmp_path / name / "train.jsonl", {"prompt": name, "target": "t"})
    overrides = ["benchmark=own", f"benchmark.data_dir={tmp_path}", "benchmark.tasks=[1,0,1.5,true]"]
    own = build(load_config(overrides)["benchmark"], "benchmark")
    assert own.load("train")["prompt"][:] == ["1", "0", "1.5", "true"]


def test_the_whole_answer_counts_unless_the_benchmark_says_the_first_line(folder):
    own = Own(str(folder))
    texts = ["yes\nbecause", " yes ", "yes\nnonsense"]
    assert [own.extract(own.extract(text)) for text in texts] == ["yes\nbecause", "yes", "yes\nnonsense"]
    answers = [own.extract(text) for text in texts]
    assert own.score(answers, ["yes\nbecause", "yes", "yes\nbecause"]) == {"accuracy": pytest.approx(2 / 3)}
    first = Own(str(folder), answer="first_line")
    answers = [first.extract(text) for text in texts]
    assert first.score(answers, ["yes\nbecause", "no", "yes"]) == {"accuracy": pytest.approx(2 / 3)}


# Columns and formats.


def test_columns_are_renamed(pairs):
    columns = {"prompt": "question", "target": "answer"}
    assert pairs({"question": "q", "answer": "a", "target": "not this"}, columns=columns) == [("q", "a")]
    assert pairs({"prompt": "p", "answer": "a"}, columns={"target": "answer"}) == [("p", "a")]


def test_columns_are_named_on_the_command_line(pairs, tmp_path):
    pairs({"question": "q", "answer": "a"}, columns={"prompt": "question", "target": "answer"})
    for words in (
        ["benchmark.columns={prompt: question, target: answer}"],
        ["benchmark.columns.prompt=question", "benchmark.columns.target=answer"],
    ):
        node = load_config(["benchmark=own", f"benchmark.data_dir={tmp_path / 'own'}", *words])["benchmark"]
        assert build(node, "benchmark").load("train")["target"][:] == ["a"]


def test_alpaca_rows_have_an_input_or_none(pairs):
    rows = [
        {"instruction": "sort", "input": "b a", "output": " a b "},
        {"instruction": "count", "input": "", "output": 3},
        {"instruction": "sing", "input": None, "output": "la"},
        {"instruction": "dance", "output": "ok"},
    ]
    wanted = [("sort\nb a", "a b"), ("count", "3"), ("sing", "la"), ("dance", "ok")]
    assert pairs(*rows, format="alpaca") == wanted
    assert pairs(*rows[3:], format="alpaca") == wanted[3:]
    dolly = {"instruction": "i", "context": "c", "response": "r"}
    columns = {"input": "context", "output": "response"}
    assert pairs(dolly, format="alpaca", columns=columns) == [("i\nc", "r")]


TURNS = [
    ("system", "Be kind."),
    ("user", "Hi"),
    ("assistant", "Hello"),
    ("user", "Bye"),
    ("assistant", " So\nlong "),
]


def test_the_last_message_of_the_assistant_is_the_target(pairs):
    chat = {"messages": [{"role": role, "content": text} for role, text in [*TURNS, ("user", "?")]]}
    prompt = "system: Be kind.\nuser: Hi\nassistant: Hello\nuser: Bye\nassistant:"
    assert pairs(chat, format="messages") == [(prompt, "So\nlong")]
    assert pairs(chat, format="messages", turn="<{role}> {content};") == [
        ("<system> Be kind.;\n<user> Hi;\n<assistant> Hello;\n<user> Bye;\n<assistant>", "So\nlong")
    ]
    names = {"user": "human", "assistant": "gpt"}
    shared = [{"from": names.get(role, role), "value": text} for role, text in TURNS]
    assert pairs({"conversations": shared}, format="sharegpt") == [(prompt, "So\nlong")]
    columns = {"messages": "dialog", "role": "who", "content": "says"}
    renamed = {"dialog": [{"who": role, "says": text} for role, text in TURNS[1:3]]}
    assert pairs(renamed, format="messages", columns=columns) == [("user: Hi\nassistant:", "Hello")]


def test_formats_are_read_out_of_every_kind_of_file(tmp_path):
    chats = [[{"role": role, "content": text} for role, text in TURNS]] * 2
    rows = Dataset.from_dict({"messages": chats})
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    write(tmp_path / "list" / "train.json", json.dumps(rows.to_list()))
    found = Own(str(tmp_path), format="messages").load("train")
    assert found["target"][:] == ["So\nlong"] * 6
    assert len(set(found["prompt"])) == 1


def said(role="assistant", content=SECRET, **more):
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (SECRET, "messages is a text; it must be a list of messages"),
        ([SECRET], r"messages\[0\] is a text; it must be an object"),
        ([said("user"), {"role": SECRET}], r"messages\[1\].content is missing or null; it must be a text"),
        ([said("user", [{"text": SECRET}])], r"messages\[0\].content is a list"),
        ([said()], "messages has no message of the assistant with another before it"),
        ([said("user"), said(SECRET)], "messages has no message of the assistant with another before it"),
        ([said("user"), said(content=" ")], "messages: the assistant's last message is empty"),
        (None, "messages is missing or null"),
    ],
)
def test_a_conversation_that_has_no_answer_is_refused_by_its_line(pairs, messages, found):
    with pytest.raises(RowError, match=f"^benchmark.data_dir: a/train.jsonl line 1: {found}") as caught:
        pairs({"messages": messages}, format="messages")
    assert SECRET not in str(caught.value)


# What is refused.


def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match=r"data_dir=None must be a folder"):
        Own()
    with pytest.raises(ValueError, match=r"gamma/train\.jsonl"):
        Own(str(folder), tasks=["gamma"]).load("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "x"}, r"must show \{prompt\}"),
        ({"format": "chat"}, "format='chat' must be one of: prompt, alpaca, messages, sharegpt"),
        (
            {"columns": {"output": "a"}},
            "columns.output is no column of format=prompt; it has: prompt, target",
        ),
        ({"columns": {"target": 3}}, "columns.target=3 must be the name of a column"),
        ({"turn": "{content}"}, "turn='{content}' must show {role}"),
        ({"answer": "last"}, "answer='last' must be one of: whole, first_line"),
        ({"tasks": "alpha"}, "tasks='alpha' must be a list"),
        ({"tasks": ["alpha", "alpha"]}, "tasks=.* must be a list of different names"),
        ({"tasks": ["../mine"]}, "must be the name of a folder"),
        ({"labels": "yes"}, "labels='yes' must be a list"),
        ({"metrics": ["speed"]}, "benchmark.metrics"),
        ({"metrics": []}, r"^metrics=\[\] must name a metric"),
        (
            {"columns": {"prompt": "target"}},
            "columns.prompt='target' must not be the file's column of another",
        ),
        ({"turn": "{role} {content}"}, "turn=.* has no effect with format=prompt"),
        ({"tasks": ["../x"]}, "^tasks: '../x' must be the name of a folder"),
    ],
)
def test_a_wrong_setting_is_named(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        Own(str(folder), **settings)


def test_a_column_that_is_named_must_be_there_though_it_could_be_missing(folder):
    write(folder / "beta" / "train.jsonl", {"instruction": "i", "context": "c", "output": "o"})
    with pytest.raises(RowError, match="contxt"):
        Own(str(folder), tasks=["beta"], format="alpaca", columns={"input": "contxt"}).load("train")


def test_labels_that_lack_a_target_do_not_bring_it_to_light(folder):
    write(folder / "beta" / "train.jsonl", {"prompt": "a", "target": "no"}, {"prompt": "a", "target": SECRET})
    text = r"^benchmark.data_dir: beta/train.jsonl line 2: the target is not among benchmark.labels=\[.*\]$"
    with pytest.raises(RowError, match=text) as caught:
        Own(str(folder), labels=["no", "yes"]).load("train")
    assert SECRET in caught.value.private


def test_nothing_of_a_folder_is_told(tmp_path, monkeypatch):
    for name in (SECRET, "other"):
        (tmp_path / name).mkdir()
    (tmp_path / SECRET / f"{SECRET}.conf").write_text("")
    with pytest.raises(RowError, match="a folder in it has no train.jsonl .* name the tasks") as caught:
        Own(str(tmp_path)).load("train")
    assert SECRET not in str(caught.value)
    assert SECRET in caught.value.private
    with pytest.raises(ValueError, match="holds no folder, so no task"):
        Own(str(tmp_path / "other")).load("train")

    def forbidden(*_):
        raise PermissionError(13, "Permission denied", f"/etc/{SECRET}")

    monkeypatch.setattr(own_module, "find_rows", forbidden)
    with pytest.raises(RowError, match="it, or a folder in it, cannot be read$"):
        Own(str(tmp_path)).load("train")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": None, "target": "yes"}, "prompt is missing"),
        ({"prompt": "a", "target": " "}, "target is empty"),
    ],
)
def test_an_empty_row_is_refused_by_its_line(folder, row, found):
    write(folder / "beta" / "test.jsonl", {"prompt": "a", "target": "b"}, row)
    with pytest.raises(RowError, match=f"^benchmark.data_dir: beta/test.jsonl line 2: {found}"):
        Own(str(folder)).load("test")


def test_public_prompts_lie_beside_the_tasks(folder):
    assert Own(str(folder)).public_prompts() == []
    write(
        folder / "public.jsonl", {"prompt": "free?", "target": " yes "}, {"prompt": "bound?", "target": None}
    )
    own = Own(str(folder), prompt="Q: {prompt}\nA:")
    found = [(example.prompt, example.target, example.task) for example in own.public_prompts()]
    assert found == [("Q: free?\nA:", "yes", "public"), ("Q: bound?\nA:", "", "public")]
    write(folder / "public.jsonl", {"prompt": "only a prompt"})
    assert [example.target for example in Own(str(folder)).public_prompts()] == [""]
    write(folder / "public.jsonl", {"prompt": " "})
    with pytest.raises(RowError, match=r"^benchmark.data_dir: public.jsonl line 1: prompt is empty"):
        Own(str(folder)).public_prompts()
    (folder / "public.jsonl").unlink()
    Dataset.from_dict({"prompt": ["saved?"]}).save_to_disk(folder / "public")
    assert [example.prompt for example in Own(str(folder)).public_prompts()] == ["saved?"]
    assert set(Own(str(folder)).load("train")["task"]) == {"alpha", "beta"}
    (folder / "public" / "state.json").unlink()
    write(folder / "public.json", json.dumps([{"messages": [said("user", "hi")]}]))
    chat = Own(str(folder), format="messages").public_prompts()
    assert [(example.prompt, example.target) for example in chat] == [("user: hi\nassistant:", "")]


def test_a_folder_is_a_client(folder, tmp_path):
    settings = ["benchmark=own", f"benchmark.data_dir={folder}", "partitioner=distinct_task", "num_clients=2"]
    run = run_toy(tmp_path / "run", *settings, "num_rounds=1", num_nodes=2)
    assert [client["tasks"] for client in run.json("summary")["clients"]] == [["alpha"], ["beta"]]


def test_what_a_client_says_of_its_rows_quotes_none(folder, tmp_path, monkeypatch):
    for name in OFFLINE:
        monkeypatch.setenv(name, "")
    policy = tmp_path / "party.yaml"
    policy.write_text(f"data: {folder}\nlog: {tmp_path / 'audit.jsonl'}\n")
    monkeypatch.setenv(POLICY_VARIABLE, str(policy))  # without one all is this user's own, and is shown
    write(folder / "beta" / "test.jsonl", {"prompt": [SECRET], "target": SECRET})
    settings = ["benchmark=own", f"benchmark.data_dir={folder}", "num_clients=2", "num_rounds=1"]
    with pytest.raises(Exception, match="<task>/test.jsonl line 1: prompt is a list") as caught:
        run_toy(tmp_path / "run", *settings, num_nodes=2)
    assert SECRET not in str(caught.value)
    assert SECRET not in (tmp_path / "run" / "run.json").read_text()
    assert SECRET in (tmp_path / "audit.jsonl").read_text()
