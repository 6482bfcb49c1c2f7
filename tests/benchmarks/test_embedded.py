"""The embedded benchmark: its data, its formats and its scoring; no model needed."""

import itertools
import random
import re

import pytest

from fedapp.benchmarks.embedded import world
from fedapp.benchmarks.embedded.stories import FORMATS, Embedded, draw, split_of
from fedapp.benchmarks.embedded.text import BODIES, CUES, FILLERS, PATTERNS, documents, vocabulary, words_of


def fixed_runs(pattern: str) -> list[str]:
    """The words of a prompt pattern that stand between its placeholders, signs included."""
    runs = [" ".join(words_of(part)) for part in re.split(r"\{\w+\}", pattern)]
    return [run for run in runs if len(run.split()) >= 2]


def test_same_settings_give_the_same_rows():
    benchmark = Embedded(num_train=120, num_test=40)
    for split in ("train", "test"):
        assert benchmark.load(split).to_list() == Embedded(num_train=120, num_test=40).load(split).to_list()
    assert benchmark.load("train").to_list() != Embedded(num_train=120, seed=1).load("train").to_list()


def test_splits_have_the_asked_sizes_and_equal_shares_of_every_task():
    rows = Embedded(num_train=50, num_test=25).load("train")
    assert rows.column_names == ["prompt", "target", "task"]
    assert len(rows) == 50
    assert {task: rows["task"].count(task) for task in FORMATS} == dict.fromkeys(FORMATS, 10)
    assert len(Embedded(num_train=50, num_test=25).load("test")) == 25


def test_no_prompt_occurs_twice_or_in_both_splits_even_across_seeds():
    train = [row for seed in range(3) for row in Embedded(num_train=1500, seed=seed).load("train")["prompt"]]
    test = Embedded(num_test=500).load("test")["prompt"]
    assert len(set(test)) == 500
    assert len(set(train[:1500])) == 1500
    assert not set(test) & set(train)


@pytest.mark.parametrize("task", sorted(FORMATS))
def test_situations_of_the_test_split_are_not_trained_on(task):
    """The same key always falls in the same split, and both splits are populated for every format."""
    rng = random.Random(0)
    for sampler, _, _ in FORMATS[task]:
        splits = [split_of(sampler(rng)["key"]) for _ in range(400)]
        assert 0.1 < splits.count("test") / 400 < 0.45
    for split in ("train", "test"):
        assert draw(task, split, random.Random(1)) == draw(task, split, random.Random(1))


def test_sums_of_the_test_split_are_absent_from_training():
    def pairs(split):
        rows = Embedded(tasks=("arithmetic",), num_train=600, num_test=200).load(split)
        return {(*re.findall(r"\d+", row["prompt"]), row["target"]) for row in rows}

    assert len(pairs("train")) > 100
    assert not pairs("train") & pairs("test")


def test_prompt_formats_do_not_occur_in_the_pre_training_text():
    text = " # ".join(" ".join(words_of(document)) for document in itertools.islice(documents(0), 20_000))
    text = f" {text} "
    for formats in FORMATS.values():
        for _, prompt, _ in formats:
            runs = fixed_runs(prompt)
            assert runs, prompt
            assert not any(f" {run} " in text for run in (runs[0], runs[-1])), prompt
    assert " what is the opposite of " in text  # the text is what it seems


def test_no_test_prompt_occurs_in_the_pre_training_text():
    texts = {" ".join(words_of(document)) for document in itertools.islice(documents(0), 20_000)}
    prompts = {" ".join(words_of(prompt)) for prompt in Embedded().load("test")["prompt"]}
    assert not any(text.startswith(tuple(prompts)) for text in texts)


def test_vocabulary_covers_the_benchmark_and_the_pre_training_text():
    known = set(vocabulary())
    for split in ("train", "test"):
        for row in Embedded(num_train=1500).load(split):
            assert set(words_of(row["prompt"] + " " + row["target"])) <= known
    for document in itertools.islice(documents(3), 3_000):
        assert set(words_of(document)) <= known


def test_every_word_of_the_prompts_is_met_in_pre_training():
    patterns = [*FILLERS, *CUES, *itertools.chain(*PATTERNS.values())]
    patterns += [body for bodies in BODIES.values() for body, _ in bodies]
    met = {word for pattern in patterns for word in words_of(pattern)}
    met |= {word for document in itertools.islice(documents(0), 20_000) for word in words_of(document)}
    fixed = {
        w for f in FORMATS.values() for _, prompt, _ in f for w in words_of(re.sub(r"\{\w+\}", "", prompt))
    }
    assert fixed <= met


def test_prompts_and_answers_are_short():
    rows = Embedded(num_train=1500).load("train")
    assert max(len(words_of(prompt)) for prompt in rows["prompt"]) <= 32
    assert max(len(words_of(target)) for target in rows["target"]) <= 3


def test_arithmetic_targets_are_right():
    for row in Embedded(tasks=("arithmetic",), num_train=300).load("train"):
        a, b = (int(number) for number in re.findall(r"\d+", row["prompt"]))
        less = any(word in row["prompt"] for word in ("away", "spend"))
        assert int(row["target"]) == (a - b if less else a + b), row


def test_opinions_are_labelled_by_their_clauses():
    """Independent reading of the generated text: a clause is good if its adjective and negation say so."""
    for seed in range(300):
        parts = world.opinion(random.Random(seed))
        tones = set()
        for clause in re.split(r" but | and ", parts["text"]):
            words = clause.split()
            tones.add((words[-1] in world.GOOD) != bool({"not", "never", "hardly"} & set(words)))
        expected = "mixed" if len(tones) == 2 else {True: "good", False: "bad"}[tones.pop()]
        assert parts["answer"] == expected, parts["text"]


def test_odd_one_out_is_the_word_of_another_category():
    for seed in range(200):
        parts = world.outsider(random.Random(seed))
        kinds = [
            kind
            for word in parts["words"].split(" , ")
            for kind, all_ in world.CATEGORIES.items()
            if word in all_
        ]
        odd = next(kind for kind, words in world.CATEGORIES.items() if parts["answer"] in words)
        assert len(kinds) == 3
        assert kinds.count(odd) == 1


def test_two_choices_are_offered_in_either_order():
    rows = [world.use(random.Random(seed)) for seed in range(400)]
    assert 0.4 < sum(row["answer"] == row["first"] for row in rows) / 400 < 0.6
    assert all({row["first"], row["second"]} == {row["answer"], row["wrong"]} for row in rows)


def test_words_have_one_category_and_one_opposite():
    words = [word for group in world.CATEGORIES.values() for word in group]
    assert len(words) == len(set(words))
    words = [word for pair in world.OPPOSITES for word in pair]
    assert len(words) == len(set(words))
    assert len(set(world.USES.values())) == len(world.USES)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("12", "12"),
        (" Good .", "good"),
        ("good . the film", "good"),
        ("arm leg\nnose", "arm leg nose"),
        ("", ""),
        (". x", ""),
    ],
)
def test_extract_takes_what_stands_before_the_first_sign(completion, answer):
    assert Embedded().extract(completion) == answer


def test_score_is_the_share_of_exact_answers():
    assert Embedded().score(["8", "good", "knife", "cat"], ["8", "bad", "knife", "cat"]) == {"accuracy": 0.75}


@pytest.mark.parametrize(("answers", "targets"), [([], []), (["8"], ["8", "9"])])
def test_score_refuses_missing_answers(answers, targets):
    with pytest.raises(ValueError, match="one answer per target"):
        Embedded().score(answers, targets)


def test_template_keeps_prompt_target_and_task():
    row = Embedded(num_test=1).load("test")[0]
    example = Embedded().template(row)
    assert (example.prompt, example.target, example.task) == (row["prompt"], row["target"], "arithmetic")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("maths",)}, r"benchmark.tasks=\('maths',\) must be a list out of: arithmetic"),
        ({"tasks": "sentiment"}, "benchmark.tasks='sentiment' must be a list"),
        ({"tasks": ()}, "benchmark.tasks"),
        ({"tasks": ("sentiment", "sentiment")}, "each task family once"),
        ({"num_train": 0}, "num_train=0 must be at least 1"),
        ({"num_test": -1}, "num_test=-1 must be at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Embedded(**settings)


def test_unknown_split_and_too_many_rows_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"split='validation' must be one of: train, test"):
        Embedded().load("validation")
    monkeypatch.setitem(FORMATS, "instruction", ((world.kind, "class of {word} :", "{answer}"),))
    with pytest.raises(ValueError, match=r"benchmark\.num_test=97 is too large: at most about"):
        Embedded(tasks=("instruction",), num_test=97).load("test")  # there are 96 words
