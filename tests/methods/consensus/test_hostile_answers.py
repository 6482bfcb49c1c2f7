"""What is made of the answers of a client that nobody vouches for."""

import pytest

from fedapp.methods.consensus.answers import clean, describe_refused, num_bytes, read_answers

DIGEST = "0123abcd"


def read(ids, answers, num_prompts=4, max_chars=20, digest=DIGEST, **more):
    texts = {"public-set": [digest], "ids": ids, "answers": answers, **more}
    return read_answers(texts, num_prompts, DIGEST, max_chars)


def test_an_answer_belongs_to_the_prompt_id_that_came_with_it():
    assert read(["3", "0", "2"], ["d", "a", "c"]).texts == {0: "a", 2: "c", 3: "d"}


@pytest.mark.parametrize("ids", [["0", "1", "2"], ["0"], []])
def test_lists_of_unequal_length_are_not_used_at_all(ids):
    found = read(ids, ["a", "b"])
    assert not found.texts
    assert found.fault == f"it sends 2 answers for {len(ids)} prompt ids"


def test_answers_to_other_prompts_than_the_servers_are_not_used_at_all():
    assert "other public prompts" in read(["0"], ["a"], digest="ffffffff").fault
    assert "other public prompts" in read_answers({"ids": ["0"], "answers": ["a"]}, 4, DIGEST, 20).fault


def test_an_upload_without_answers_is_that_of_a_client_that_abstains():
    assert read([], []).texts == {}
    assert not read([], []).fault


@pytest.mark.parametrize("name", ["4", "-1", "01", "1.0", "٣", "", "x", "1" * 10_000])
def test_unknown_prompt_ids_are_dropped_and_counted(name):
    found = read(["1", name], ["b", "?"])
    assert (found.texts, dict(found.refused)) == ({1: "b"}, {"to unknown prompts": 1})


def test_a_prompt_is_answered_once():
    found = read(["1"] * 1000, ["first", *["flood"] * 999])
    assert (found.texts, dict(found.refused)) == ({1: "first"}, {"to a prompt answered before": 999})


def test_an_empty_answer_is_an_abstention_and_named():
    found = read(["0", "1"], ["", " \n\x00\t"])
    assert found.texts == {0: "", 1: ""}
    assert found.refused["empty"] == 2


def test_a_megabyte_is_cut():
    found = read(["0"], ["ab" * 500_000])
    assert (found.texts[0], dict(found.refused)) == ("ab" * 10, {"cut to max_answer_chars": 1})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\ud800b", "ab"),
        ("\udfff", ""),
        ("bell\x07 and \x1b[31mred", "bell and [31mred"),
        ("\x85next\x9f", "next"),
        ("two\nlines\tand tab", "two\nlines\tand tab"),
        ("ümläut, 漢字, 👩\u200d💻 and \u202aarabic\u202c", None),
        (" blank \n", "blank"),
    ],
)
def test_what_is_no_text_is_taken_out_and_the_rest_is_left_alone(text, kept):
    found, problems = clean(text, 100)
    assert found == (text if kept is None else kept)
    found.encode("utf-8")  # whatever comes after can encode it
    assert ("freed of characters that are no text" in problems) == (kept is not None and kept != text.strip())


def test_likelihoods_are_used_where_they_are_ones():
    ids, answers = ["0", "1", "2", "3"], list("abcd")
    rated = read(ids, answers, likelihoods=["-0.5", "nan", "3.0", "-1e"])
    assert rated.log_likelihoods == {0: -0.5}
    assert read(ids, answers, likelihoods=["-inf", "", "-2", "-" + "1" * 5000]).log_likelihoods == {2: -2.0}
    assert read(ids, answers, likelihoods=["-0.5"]).log_likelihoods == {}
    assert read(ids, answers, likelihoods=["-0.5"]).texts == {0: "a", 1: "b", 2: "c", 3: "d"}


def test_bytes_are_those_of_utf8():
    assert num_bytes({7: "ä", 10: "ab"}) == 1 + 2 + 2 + 2


def test_a_warning_counts_by_kind():
    assert describe_refused({"empty": 3, "cut to max_answer_chars": 1}) == (
        "of its answers 1 cut to max_answer_chars, 3 empty"
    )
