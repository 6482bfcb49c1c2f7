"""Commonsense reasoning: frozen rows of each kind, and the evaluator's way to read an answer."""

import json
import re
from pathlib import Path

import pytest

from fedapp.benchmarks.llm_adapters.commonsense import FOLDERS, Commonsense
from fedapp.core.errors import RowError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "commonsense"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data is not there: {DATA}")
ALL = Commonsense(tasks=list(FOLDERS))
BOOLQ = {
    "instruction": "Please answer the following question with true or false, question: is it?\n\n"
    "Answer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
    "task": "boolq",
}
# One reply of each task, as in the source's files.
REPLIES = {
    "boolq": "the correct answer is false",
    "piqa": "the correct answer is solution1",
    "social_i_qa": "the correct answer is answer3",
    "hellaswag": "the correct answer is ending4",
    "winogrande": "the correct answer is option2",
    "arc_easy": "the correct answer is answer1",
    "arc_challenge": "the correct answer is answer5",
    "openbookqa": "the correct answer is answer2",
}


def reference(task, sentence):
    """The evaluator's rule, told by task: the first word of the task's own kind."""
    kinds = {
        "boolq": "true|false",
        "piqa": "solution[12]",
        "hellaswag": "ending[1-4]",
        "winogrande": "option[12]",
    }
    found = re.findall(kinds.get(task, "answer[1-5]"), sentence.strip())
    return found[0] if found else ""


def test_a_frozen_row_becomes_the_evaluators_prompt():
    pad = " " * 16
    example = ALL.template(BOOLQ)
    assert example.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the"
        f" request. \n\n{pad}### Instruction:\n{pad}{BOOLQ['instruction']}\n\n{pad}### Response:\n{pad}"
    )
    assert (example.target, example.task, example.label) == ("the correct answer is true", "boolq", None)


def test_a_row_with_an_input_gets_the_other_prompt():
    pad = " " * 16
    prompt = ALL.template({**BOOLQ, "instruction": "Is {input} it?", "input": "a cat"}).prompt
    assert prompt.startswith(
        "Below is an instruction that describes a task, paired with an input that provides"
    )
    assert prompt.endswith(
        f"completes the request.\n\n{pad}### Instruction:\n{pad}Is {{input}} it?\n\n"
        f"{pad}### Input:\n{pad}a cat\n\n{pad}### Response:\n{pad}"
    )


def test_an_own_prompt_replaces_the_evaluators():
    own = Commonsense(tasks=["boolq"], prompt="{instruction}\n")
    assert own.template(BOOLQ).prompt == BOOLQ["instruction"] + "\n"


@pytest.mark.parametrize(("task", "reply"), REPLIES.items())
def test_the_answer_of_each_task_is_found(task, reply):
    answer = ALL.extract(reply)
    assert answer == reference(task, reply) == reply.split()[-1]
    assert ALL.extract(answer) == answer
    assert ALL.score([answer], [reply]) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "I do not know",
        "answer1 is true",
        "it is false, not true",
        "option2 or solution1",
        "untrue",
        "True",
    ],
)
@pytest.mark.parametrize(("task", "reply"), REPLIES.items())
def test_scores_are_the_evaluators_on_whole_completions_and_on_extracted_answers(completion, task, reply):
    # "untrue" holds "true" and "True" does not: the evaluator looks for neither words nor upper case.
    right = float(reference(task, completion) == reference(task, reply))
    assert ALL.score([completion], [reply]) == {"accuracy": right}
    assert ALL.score([ALL.extract(completion)], [reply]) == {"accuracy": right}


def test_score_needs_equal_lengths_and_targets_that_hold_an_answer():
    with pytest.raises(ValueError, match="1 answers cannot be scored against 2 targets"):
        ALL.score(["true"], ["true", "false"])
    with pytest.raises(RowError, match="the output of a row holds no answer like true") as caught:
        ALL.score(["true"], ["maybe"])
    assert "maybe" not in str(caught.value)
    assert "maybe" in caught.value.private


def test_tasks_follow_one_another_and_keep_their_name(tmp_path):
    for folder, answer in (("boolq", "true"), ("ARC-Easy", "answer1")):
        (tmp_path / folder).mkdir()
        row = {
            "instruction": "?",
            "input": None,
            "output": f"the correct answer is {answer}",
            "answer": answer,
        }
        (tmp_path / folder / "train.json").write_text(json.dumps([row]), encoding="utf-8")
    rows = Commonsense(tasks=["boolq", "arc_easy"], data_dir=str(tmp_path)).load("train")
    assert rows["task"][:] == ["boolq", "arc_easy"]
    assert ALL.template(rows[1]).prompt.startswith("Below is an instruction that describes a task. ")


def test_a_training_set_replaces_the_tasks_own_train_splits(tmp_path):
    (tmp_path / "commonsense_170k").mkdir()
    lines = json.dumps({k: v for k, v in BOOLQ.items() if k != "task"})
    (tmp_path / "commonsense_170k" / "train.jsonl").write_text(lines, encoding="utf-8")
    union = Commonsense(tasks=["piqa"], train=["commonsense_170k"], data_dir=str(tmp_path))
    assert union.load("train")["task"][:] == ["commonsense_170k"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": []}, r"benchmark.tasks=\[\] must name a task"),
        ({"tasks": ["boolq", "bolq"]}, "benchmark.tasks has 'bolq'; known: boolq, piqa"),
        ({"tasks": ["boolq", "boolq"]}, "must name each task once"),
        (
            {"tasks": ["boolq"], "prompt": "Answer:"},
            "benchmark.prompt='Answer:' must hold {instruction} once",
        ),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Commonsense(**settings)


def test_there_is_no_validation_split():
    with pytest.raises(ValueError, match="split='validation' does not exist; known: train, test"):
        ALL.load("validation")


@needs_data
@pytest.mark.parametrize("task", ["boolq", "piqa", "social_i_qa", "winogrande", "arc_easy", "arc_challenge"])
def test_every_reply_of_the_real_files_holds_its_answer(task):
    benchmark = Commonsense(tasks=[task], data_dir=str(DATA))
    rows = benchmark.load("test")
    assert [benchmark.extract(text) for text in rows["output"]] == rows["answer"][:]


@needs_data
def test_a_task_without_a_train_split_is_named():
    with pytest.raises(ValueError, match=r"benchmark.data_dir=\S+ has no train rows of piqa"):
        Commonsense(tasks=["piqa"], data_dir=str(DATA)).load("train")


# Options, by likelihood

LIKELY = Commonsense(tasks=list(FOLDERS), scoring="loglikelihood")
ROWS = {
    "arc": (
        "Please choose the correct answer to the question: Why?\n\nAnswer1: It is. Answer2: Answer1: no. "
        "Answer3: So.\n\nAnswer format: answer1/answer2/answer3",
        "answer3",
        ("Question: Why?\nAnswer:", "So.", ("It is.", "Answer1: no.", "So.")),
    ),
    "piqa": (
        "Please choose the correct solution to the question: How to?\n\nSolution1: This\n\n"
        "Solution2: That \n\nAnswer format: solution1/solution2",
        "solution1",
        ("Question: How to?\nAnswer:", "This", ("This", "That")),
    ),
    "winogrande": (
        "Please choose the correct answer to fill in the blank to complete the given sentence: Sarah saw "
        "Maria so _ left early.\n\nOption1: Sarah Option2: Maria Answer format: option1/option2",
        "option2",
        ("Sarah saw Maria so", "Maria left early.", ("Sarah left early.", "Maria left early.")),
    ),
    "hellaswag": (
        "Please choose the correct ending to complete the given sentence: Running: A man runs. He\n\n"
        "Ending1: flies. Ending2: sweats.\n\nAnswer format: ending1/ending2",
        "ending2",
        ("Running: A man runs. He", "sweats.", ("flies.", "sweats.")),
    ),
    "boolq": (BOOLQ["instruction"], "true", ("Question: is it?\nAnswer:", "yes", ("yes", "no"))),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_rows_instruction_is_taken_apart_into_prompt_and_options(kind):
    instruction, answer, wanted = ROWS[kind]
    row = {
        "instruction": instruction,
        "input": "",
        "output": f"it is {answer}",
        "answer": answer,
        "task": kind,
    }
    example = LIKELY.template(row)
    assert (example.prompt, example.target, example.options) == wanted


def test_the_option_of_the_highest_likelihood_per_character_is_chosen():
    options, ratings = ("short", "much longer one"), [-5.0, -9.0]  # per character: 1.0 and 0.6
    assert LIKELY.choose(options, ratings) == "much longer one"
    plain = Commonsense(tasks=["piqa"], scoring="loglikelihood", length_norm="none")
    assert plain.choose(options, ratings) == "short"
    assert LIKELY.score(["yes", "no"], ["yes", "yes"]) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "answer9"}, "must be one of its options: answer1, answer2, answer3"),
        ({"instruction": "What?"}, "is not laid out as question, options and answer format"),
        ({"instruction": ROWS["arc"][0].replace("Answer2:", "2:")}, "offers answer2 and does not say what"),
    ],
)
def test_a_row_without_options_is_named_without_its_words(change, said):
    row = {
        "instruction": ROWS["arc"][0],
        "input": "",
        "output": "x",
        "answer": "answer3",
        "task": "arc",
        **change,
    }
    with pytest.raises(RowError, match=said) as caught:
        LIKELY.template(row)
    assert "What?" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scoring": "likely"}, r"scoring='likely' must be one of: generate, loglikelihood"),
        ({"length_norm": "words"}, r"length_norm='words' must be one of: characters, none"),
        ({"scoring": "loglikelihood", "prompt": "{instruction}"}, r"must be null with benchmark\.scoring"),
    ],
)
def test_settings_of_the_scoring_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Commonsense(tasks=["piqa"], **settings)


@needs_data
@pytest.mark.parametrize("task", ["piqa", "arc_easy", "arc_challenge", "winogrande", "social_i_qa", "boolq"])
def test_every_real_row_has_its_answer_among_its_options(task):
    benchmark = Commonsense(tasks=[task], train=["boolq"], data_dir=str(DATA), scoring="loglikelihood")
    examples = [benchmark.template(row) for row in benchmark.load("test")]
    assert all(example.target in example.options and all(example.options) for example in examples)
