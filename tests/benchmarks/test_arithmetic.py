"""Arithmetic reasoning: frozen rows, numbers and letters as the evaluator reads them, and leaks."""

import json
from pathlib import Path

import pytest

from fedapp.benchmarks.llm_adapters.arithmetic import Arithmetic, gold_answer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "arithmetic"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not there: {DATA}")
NUMBERS = Arithmetic(tasks=["gsm8k"])
LETTERS = Arithmetic(tasks=["aqua"])
BOTH = Arithmetic(tasks=["gsm8k", "aqua"])
THOUGHT = "A: He has 1,000 - 24 = 976 tiles. The answer is 976."


def write(folder, name, split, rows):
    (folder / name).mkdir(exist_ok=True)
    columns = ("instruction", "output", "answer")
    lines = [json.dumps({**dict(zip(columns, row, strict=True)), "input": ""}) for row in rows]
    (folder / name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_a_frozen_row_becomes_the_evaluators_prompt():
    pad = " " * 16
    row = {"instruction": "1 + 1?", "input": "", "output": "2", "answer": "2", "target": "2", "task": "gsm8k"}
    example = NUMBERS.template(row)
    assert example.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the"
        f" request. \n\n{pad}### Instruction:\n{pad}1 + 1?\n{pad}\n{pad}### Response:\n{pad}"
    )
    assert (example.target, example.task) == ("2", "gsm8k")


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        (THOUGHT, "976"),
        ("it costs $1,234.50", "1234.50"),
        ("from 5 to -3", "-3"),
        ("9 - 4 = 5.", "5"),
        ("none", ""),
    ],
)
def test_the_last_number_counts_and_thousands_separators_do_not(completion, number):
    assert NUMBERS.extract(completion) == number
    assert NUMBERS.extract(number) == number


def test_the_first_capital_from_a_to_e_counts():
    assert LETTERS.extract("The answer is (C).") == "C"
    assert LETTERS.extract("All of it: (C)") == "A"
    assert LETTERS.extract("the answer is c") == ""


def test_where_both_kinds_are_chosen_both_are_kept_and_the_target_decides():
    answer = BOTH.extract(THOUGHT)
    assert answer == "A 976" == BOTH.extract(answer)
    for given in (answer, THOUGHT):
        assert BOTH.score([given], ["so it is. The answer is 976."]) == {"accuracy": 1.0}
        assert BOTH.score([given], ["A"]) == {"accuracy": 1.0}
        assert BOTH.score([given], ["Rationale: 976. The answer is (B)."]) == {"accuracy": 0.0}


def test_numbers_a_thousandth_apart_are_equal():
    assert NUMBERS.score(["1.8333", "576", "7", ""], ["1.8333333333333335", "576.0", "8", "0"]) == {
        "accuracy": 0.5
    }


@pytest.mark.parametrize(
    ("reply", "gold"),
    [
        ("4", "4"),
        ("B", "B"),
        ("\nA: There are 4 cats and 3 dogs. The answer is 7.", "7"),
        ("\nRationale: Carl pays 500 * 6% = 30.The answer is (C).", "C"),
        ("The answer is E", "E"),
        ("The answer is A lot of 12", "12"),
        ("", ""),
    ],
)
def test_the_answer_at_the_end_of_a_given_reply(reply, gold):
    assert gold_answer(reply) == gold


def test_a_test_reply_with_a_wrong_end_gives_way_to_the_answer(tmp_path):
    rows = [("a?", "1 + 1. The answer is 2.", "2.0"), ("b?", "The answer is 3.", "4"), ("c?", "", "5")]
    write(tmp_path, "gsm8k", "test", rows)
    write(tmp_path, "gsm8k", "train", [("d?", "The answer is 3.", "4"), ("e?", "", "6")])
    benchmark = Arithmetic(tasks=["gsm8k"], data_dir=str(tmp_path))
    assert benchmark.load("test")["target"][:] == ["1 + 1. The answer is 2.", "4", "5"]
    # Training keeps the replies as they are, as the reference does, but for those that are empty.
    assert benchmark.load("train")["target"][:] == ["The answer is 3.", "6"]


@pytest.mark.parametrize("task", ["addsub", "multiarith", "singleeq"])
@pytest.mark.parametrize("leak", ["refuse", "drop"])
def test_what_a_training_set_is_made_of_is_refused_before_anything_is_read(task, leak):
    with pytest.raises(
        ValueError, match=rf"cannot be tested after training on math_data, which is made of {task};"
    ):
        Arithmetic(tasks=["gsm8k", task], train=["math_data"], leak=leak)


@pytest.mark.parametrize(("seen", "refused"), [(1, False), (2, True)])
def test_more_than_a_twentieth_of_the_test_questions_in_training_is_refused(tmp_path, seen, refused):
    write(tmp_path, "gsm8k", "test", [(f"Question {i}?", "", "1") for i in range(20)])
    write(
        tmp_path,
        "own",
        "train",
        [(f"  question  {i}? ", "1", "1") for i in range(seen)] + [("new?", "1", "1")],
    )
    benchmark = Arithmetic(tasks=["gsm8k"], train=["own"], data_dir=str(tmp_path))
    if not refused:
        assert len(benchmark.load("test")) == 20
        return
    for split in ("train", "test"):
        with pytest.raises(
            ValueError, match="gsm8k, but 2 of its 20 test questions are among the training rows of own"
        ):
            benchmark.load(split)
    dropping = Arithmetic(tasks=["gsm8k"], train=["own"], data_dir=str(tmp_path), leak="drop")
    assert dropping.load("train")["instruction"][:] == ["new?"]
    assert len(dropping.load("test")) == 20


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["gsm"]}, "benchmark.tasks has 'gsm'; known: aqua, gsm8k"),
        ({"tasks": ["gsm8k"], "leak": "ignore"}, "leak='ignore' must be one of: refuse, drop"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Arithmetic(**settings)


@needs_data
@pytest.mark.parametrize(("task", "leaked"), [("aqua", "203 of its 254"), ("gsm8k", r"10\d\d of its 1319")])
def test_the_real_training_set_holds_most_of_two_test_sets(task, leaked):
    with pytest.raises(ValueError, match=f"{task}, but {leaked} test questions"):
        Arithmetic(tasks=[task], train=["math_data"], data_dir=str(DATA)).load("test")


@needs_data
@pytest.mark.parametrize("task", ["aqua", "gsm8k", "mawps"])
def test_every_real_target_ends_in_its_answer(task):
    benchmark = Arithmetic(tasks=[task], train=["math_data"], data_dir=str(DATA), leak="drop")
    rows = benchmark.load("test")
    assert benchmark.score(rows["answer"][:], rows["target"][:]) == {"accuracy": 1.0}
    asked = {" ".join(text.lower().split()) for text in rows["instruction"]}
    assert not asked & {" ".join(text.lower().split()) for text in benchmark.load("train")["instruction"]}
