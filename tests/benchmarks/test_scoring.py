"""Metrics against values worked out by hand."""

import itertools
import random

import pytest

from fedapp.benchmarks.metrics import (
    accuracy,
    exact_match,
    first_label,
    macro_f1,
    matthews_correlation,
    metric,
    rouge_l,
    same_number,
)


def test_accuracy_is_the_share_of_equal_pairs():
    assert accuracy(["a", "b", "", "d"], ["a", "b", "c", "c"]) == 0.5


def test_matthews_correlation_by_hand():
    # tp 2, tn 1, fp 1, fn 1: (2*1 - 1*1) / sqrt(3*3*2*2) = 1/6
    targets = ["yes", "yes", "yes", "no", "no"]
    answers = ["yes", "yes", "no", "no", "yes"]
    assert matthews_correlation(answers, targets) == pytest.approx(1 / 6)


def test_matthews_correlation_is_zero_for_a_constant_answer_and_minus_one_for_the_opposite():
    assert matthews_correlation(["yes"] * 4, ["yes", "no", "yes", "yes"]) == 0
    assert matthews_correlation(["no", "yes"], ["yes", "no"]) == -1


def test_an_answer_that_is_no_label_lowers_the_correlation():
    targets = ["yes", "no", "yes", "no"]
    assert (
        matthews_correlation(["yes", "no", "", "no"], targets) < matthews_correlation(targets, targets) == 1
    )


def test_macro_f1_by_hand_adds_no_class_for_an_unknown_answer():
    # yes: precision 1, recall 1/2 -> 2/3; no: precision 1/1, recall 1/1 -> 1; mean 5/6
    assert macro_f1(["yes", "", "no"], ["yes", "yes", "no"]) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("answer", "target", "same"),
    [
        ("4", "4.0", True),
        ("1.8333", "1.8333333333333335", True),
        ("3.9995", "4", True),
        ("3.998", "4", False),
        ("", "4", False),
        ("inf", "inf", False),
        ("nan", "nan", False),
        ("four", "4", False),
    ],
)
def test_numbers_are_equal_up_to_a_thousandth(answer, target, same):
    assert same_number(answer, target) is same


@pytest.mark.parametrize("name", ["accuracy", "matthews-correlation", "macro-f1"])
def test_nothing_to_score_and_unequal_lengths_are_refused(name):
    with pytest.raises(ValueError, match="nothing to score"):
        metric(name)([], [])
    with pytest.raises(ValueError, match="1 answers cannot be scored against 2 targets"):
        metric(name)(["a"], ["a", "b"])


def test_an_unknown_metric_is_named():
    with pytest.raises(
        ValueError, match=r"benchmark.metrics has 'f1'; known: accuracy, exact-match, macro-f1, matthews"
    ):
        metric("f1")


@pytest.mark.slow  # rouge-score imports NLTK
def test_rouge_l_equals_the_package_rouge_score_on_ascii_words():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    draw, words = random.Random(0), ["a", "b", "c", "the", "12", "don't", "x_y", "Cat,", "dog.", "e-mail"]
    for _ in range(500):
        answer, target = (" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(2))
        theirs = scorer.score(target, answer)["rougeL"].fmeasure
        assert rouge_l([answer], [target]) == pytest.approx(theirs, abs=1e-15)
    assert scorer.score("猫", "猫")["rougeL"].fmeasure == 0
    assert rouge_l(["猫"], ["猫"]) == 1


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # Answer of 4 words, target of 6, "the cat the mat" in common: P = 1, R = 4/6.
    assert rouge_l(["the cat the mat"], ["The cat sat on the mat."]) == pytest.approx(0.8)
    # Order counts: of "b a" only one word is in order.
    assert rouge_l(["b a"], ["a b"]) == pytest.approx(0.5)
    assert rouge_l(["a", "", "", "a"], ["a", "a", "...", ""]) == pytest.approx(0.5)


def test_rouge_l_agrees_with_a_search_over_all_subsequences():
    rng = random.Random(0)
    for _ in range(40):
        answer, target = ([rng.choice("abc") for _ in range(rng.randint(1, 6))] for _ in range(2))
        common = set(subsequences(answer)) & set(subsequences(target))
        wanted = 2 * max(map(len, common)) / (len(answer) + len(target))
        assert rouge_l([" ".join(answer)], [" ".join(target)]) == pytest.approx(wanted)


def subsequences(words):
    return [sub for size in range(len(words) + 1) for sub in itertools.combinations(words, size)]


def test_exact_match_looks_at_words_alone():
    assert exact_match(["The  cat.", "cat the"], ["the cat", "the cat"]) == 0.5


def test_first_label_takes_whole_words_of_the_first_line():
    assert first_label("\n so Good , not bad\nbad", ["bad", "good"]) == "good"
    assert first_label("goods\ngood", ["bad", "good"]) == ""
    assert first_label("not bad at all", ["bad", "not bad"]) == "not bad"
