"""The user's own folder of prompts and targets."""

import json

import pytest

from fedapp.benchmarks.own import Own
from tests.federation import run_toy


@pytest.fixture
def folder(tmp_path):
    for task, answer in (("beta", "no"), ("alpha", "yes")):
        for split, count in (("train", 10), ("test", 4)):
            rows = [{"prompt": f"{task} {split} {i}?", "target": f" {answer}\n"} for i in range(count)]
            path = tmp_path / "mine" / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "mine"


def test_every_folder_is_a_task(folder):
    rows = Own(str(folder)).load("train")
    assert len(rows) == 20
    assert rows["task"][0] == "alpha"
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


def test_the_first_line_of_an_answer_counts(folder):
    own = Own(str(folder))
    answers = [own.extract(text) for text in ("yes\nbecause", " no", "maybe")]
    assert own.score(answers, ["yes", "no", "no"]) == {"accuracy": pytest.approx(2 / 3)}


def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match=r"data_dir=None must be a folder"):
        Own()
    with pytest.raises(ValueError, match=r"gamma/train\.jsonl"):
        Own(str(folder), tasks=["gamma"]).load("train")
    with pytest.raises(ValueError, match=r"benchmark\.labels=\['no'\] does not hold 'yes'"):
        Own(str(folder), labels=["no"]).load("train")
    with pytest.raises(ValueError, match=r"must show \{prompt\}"):
        Own(str(folder), prompt="x")


def test_a_folder_is_a_client(folder, tmp_path):
    settings = ["benchmark=own", f"benchmark.data_dir={folder}", "partitioner=distinct_task", "num_clients=2"]
    run = run_toy(tmp_path / "run", *settings, "num_rounds=1", num_nodes=2)
    assert [client["tasks"] for client in run.json("summary")["clients"]] == [["alpha"], ["beta"]]


@pytest.mark.parametrize("row", [{"prompt": None, "target": "yes"}, {"prompt": "a", "target": " "}])
def test_an_empty_row_is_refused_by_its_number(folder, row):
    file = folder / "beta" / "test.jsonl"
    file.write_text(json.dumps({"prompt": "a", "target": "b"}) + "\n" + json.dumps(row))
    with pytest.raises(ValueError, match=r"row 2 of beta's test rows has (prompt=None|target=' ')"):
        Own(str(folder)).load("test")


def test_public_prompts_lie_beside_the_tasks(folder):
    assert Own(str(folder)).public_prompts() == []
    rows = [{"prompt": "free?", "target": " yes "}, {"prompt": "bound?", "target": None}]
    (folder / "public.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = Own(str(folder), prompt="Q: {prompt}\nA:")
    found = [(example.prompt, example.target, example.task) for example in own.public_prompts()]
    assert found == [("Q: free?\nA:", "yes", "public"), ("Q: bound?\nA:", "", "public")]
    (folder / "public.jsonl").write_text('{"prompt": "only a prompt"}')
    assert [example.target for example in Own(str(folder)).public_prompts()] == [""]
    (folder / "public.jsonl").write_text('{"prompt": " "}')
    with pytest.raises(ValueError, match=r"public.jsonl row 1 has prompt=' '"):
        Own(str(folder)).public_prompts()
