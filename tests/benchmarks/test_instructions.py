"""Instruction benchmarks: the embedded one and the one read from JSON; public prompts are nobody's data."""

import json
import random
import re

import pytest

from fedapp.benchmarks.embedded.instructions import EmbeddedInstructions, draw, owner_of
from fedapp.benchmarks.embedded.stories import FORMATS, Embedded
from fedapp.benchmarks.instructions import Instructions
from fedapp.config.build import build
from fedapp.config.compose import load_config

PROMPTS = {"prompt": "Q: {instruction}\nA:", "prompt_input": "Q: {instruction}\nI: {input}\nA:"}
COLUMNS = {"instruction": "instruction", "input": "context", "output": "response", "task": "category"}


def rows_of(count):
    kinds = ("qa", "qa", "qa", "list", "rare")
    return [
        {
            "instruction": f"do {n}",
            "context": "x" if n % 2 else "",
            "response": f"done {n}",
            "category": kinds[n % 5],
        }
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "demo").mkdir()
    rows = [
        *rows_of(40),
        rows_of(1)[0],
        {"instruction": "empty", "context": "", "response": " ", "category": "qa"},
    ]
    (tmp_path / "demo" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def demo(folder, **settings):
    settings = {"columns": COLUMNS, "num_test": 8, "public_size": 6, **PROMPTS} | settings
    return Instructions("demo", data_dir=str(folder), **settings)


def test_embedded_public_prompts_cover_all_tasks_and_are_about_nobody_elses_things():
    benchmark = EmbeddedInstructions(num_train=300, num_test=100, public_size=50)
    public = benchmark.public_prompts()
    assert {task: sum(e.task == task for e in public) for task in FORMATS} == dict.fromkeys(FORMATS, 10)
    prompts = [{e.prompt for e in public}, *(set(benchmark.load(s)["prompt"]) for s in ("train", "test"))]
    assert [len(part) for part in prompts] == [50, 300, 100]
    assert len(set.union(*prompts)) == 450
    assert public == EmbeddedInstructions(num_train=9, num_test=9, public_size=50).public_prompts()


def test_embedded_sums_are_asked_in_one_split_alone():
    benchmark = EmbeddedInstructions(tasks=("arithmetic",), num_train=300, num_test=100, public_size=100)
    prompts = {"public": [example.prompt for example in benchmark.public_prompts()]}
    prompts |= {split: benchmark.load(split)["prompt"][:] for split in ("train", "test")}
    signs = {
        name: {(*re.findall(r"\d+", text), bool(re.search("gave|away|spend", text))) for text in texts}
        for name, texts in prompts.items()
    }
    assert all(len(found) > 20 for found in signs.values())
    assert not signs["public"] & signs["train"]
    assert not signs["public"] & signs["test"]
    assert not signs["train"] & signs["test"]


@pytest.mark.parametrize("task", sorted(FORMATS))
def test_embedded_situations_have_one_owner_and_every_owner_has_some(task):
    rng = random.Random(0)
    for sampler, _, _ in FORMATS[task]:
        owners = [owner_of(sampler(rng)["key"]) for _ in range(400)]
        assert all(owners.count(owner) > 20 for owner in ("train", "test", "public"))
    assert draw(task, "public", random.Random(1)) == draw(task, "public", random.Random(1))


def test_embedded_scores_are_exact_match_and_rouge():
    benchmark = EmbeddedInstructions()
    scores = benchmark.score(["Ship cow . and", "12"], ["ship cow arm", "12"])
    assert scores == pytest.approx({"exact-match": 0.5, "rouge-l": (0.8 + 1) / 2})
    assert benchmark.extract("Ship cow . and") == Embedded().extract("Ship cow . and") == "ship cow"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["x"]}, "benchmark.tasks"),
        ({"public_size": 4}, "public_size=4"),
        ({"num_test": 0}, "num_test"),
    ],
)
def test_a_wrong_embedded_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EmbeddedInstructions(**settings)


def test_rows_go_to_one_of_public_test_and_train(folder):
    benchmark = demo(folder)
    public = {example.prompt for example in benchmark.public_prompts()}
    test, train = ({benchmark.template(r).prompt for r in benchmark.load(s)} for s in ("test", "train"))
    assert [len(part) for part in (public, test, train)] == [6, 8, 26]
    assert len(public | test | train) == 40  # the repeated row and the empty answer are left out
    assert len(demo(folder, num_train=5).load("train")) == 5
    assert {e.prompt for e in demo(folder, split_seed=2).public_prompts()} != public


def test_public_prompts_have_every_kind_of_instruction_in_turns(folder):
    tasks = [example.task for example in demo(folder).public_prompts()]
    assert {task: tasks.count(task) for task in tasks} == {"qa": 2, "list": 2, "rare": 2}
    with pytest.raises(ValueError, match="benchmark.public_size=2 must be at least 3"):
        demo(folder, public_size=2).public_prompts()


def test_the_template_depends_on_whether_there_is_an_input(folder):
    row = {"instruction": "sort {input}", "input": "b a", "output": "a b", "task": "qa"}
    assert demo(folder).template(row).prompt == "Q: sort {input}\nI: b a\nA:"
    assert demo(folder).template(row | {"input": ""}).prompt == "Q: sort {input}\nA:"


def test_headings_belong_to_an_answer_but_for_those_of_the_template(folder):
    framed = {"prompt": "### Instruction:\n{instruction}\n\n### Response:\n"}
    benchmark = demo(folder, metrics=["exact-match"], **framed)
    answer = "# Plan\n\n### First step\ngo on"
    assert benchmark.extract(f" {answer}\n\n### Instruction:\nanother") == answer
    assert benchmark.extract(answer) == answer
    assert benchmark.score(["one\n### two"], ["one"]) == {"exact-match": 0.0}
    assert benchmark.score(["one\n### two"], ["one\n### two"]) == {"exact-match": 1.0}


def test_alpaca_columns_without_a_task(tmp_path):
    (tmp_path / "alpaca").mkdir()
    rows = [{"instruction": f"i{n}", "input": "", "output": "o"} for n in range(9)]
    (tmp_path / "alpaca" / "train.json").write_text(json.dumps(rows))
    overrides = ["benchmark=instructions", "benchmark.name=alpaca", f"benchmark.data_dir={tmp_path}"]
    overrides += [
        "benchmark.columns.input=input",
        "benchmark.columns.output=output",
        "benchmark.columns.task=null",
    ]
    node = load_config([*overrides, "benchmark.num_test=2", "benchmark.public_size=3"])["benchmark"]
    benchmark = build(node, "benchmark")
    assert set(benchmark.load("train")["task"]) == {"alpaca"}
    assert len(benchmark.public_prompts()) == 3
    assert benchmark.public_prompts()[0].prompt.startswith("### Instruction:\ni")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"instruction": "instruction"}}, "columns"),
        ({"prompt_input": "{instruction}"}, "prompt_input"),
        ({"num_test": 0}, "num_test"),
        ({"metrics": []}, "metrics"),
    ],
)
def test_a_wrong_setting_is_named(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        demo(folder, **settings)


def test_too_few_rows_are_named(folder):
    with pytest.raises(
        ValueError, match="benchmark.public_size=30 and benchmark.num_test=10 leave no training row"
    ):
        demo(folder, public_size=30, num_test=10).load("train")
