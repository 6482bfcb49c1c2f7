import numpy as np
import pytest

from fedapp.adapters.reft.positions import Positions


def located(text, length, offset=0, width=None):
    rows, is_last = Positions.parse(text).locate([length], [offset], width or length + offset)
    return rows[~is_last].tolist(), rows[is_last].tolist()


def test_first_and_last_tokens_of_the_prompt():
    assert located("f4+l4", 10, width=16) == ([0, 1, 2, 3], [6, 7, 8, 9])


def test_a_short_prompt_is_edited_on_half_its_tokens_from_each_side():
    assert located("f4+l4", 5) == ([0, 1], [3, 4])
    assert located("f4+l4", 1) == ([], [])
    assert located("f3", 4) == ([0, 1], [])


def test_padding_on_the_left_shifts_the_positions():
    assert located("f1+l1", 4, offset=3) == ([3], [6])


def test_rows_of_a_batch_follow_each_other():
    rows, _ = Positions.parse("l1").locate([4, 2], [0, 0], 5)
    assert rows.tolist() == [3, 6]  # 5 + 1


@pytest.mark.parametrize("text", ["f4+l4", "f3", "l2", "f7+l2", "f1+l5"])
@pytest.mark.parametrize("tied", [False, True])
def test_positions_are_those_of_pyreft(text, tied):
    from pyreft import get_intervention_locations

    positions = Positions.parse(text)
    groups = positions.groups(tied)
    for length in range(1, 20):
        theirs = get_intervention_locations(
            last_position=length, positions=text, num_interventions=len(groups), share_weights=tied
        )
        rows, is_last = positions.locate([length], [0], length)
        ours = [rows] if len(groups) == 1 else [rows[~is_last], rows[is_last]]
        for mine, other in zip(ours, theirs, strict=True):
            assert sorted(mine.tolist()) == [place for place in sorted(other) if place >= 0]


@pytest.mark.parametrize("text", ["", "f0", "f0+l0", "4+4", "l4+f4", "f4l4", "f4+", "f-1", "fx", "f4+l4+l2"])
def test_malformed_positions_are_refused_by_name(text):
    with pytest.raises(ValueError, match=r"positions=.*must look like"):
        Positions.parse(text)


def test_groups_are_named_after_what_they_edit():
    assert Positions.parse("f4+l4").groups(False) == ("prefix", "suffix")
    assert Positions.parse("f4+l4").groups(True) == ("tied",)
    assert Positions.parse("f3").groups(False) == ("prefix",)
    assert Positions.parse("l3").groups(False) == ("suffix",)


def test_locations_are_indices_of_the_flattened_batch():
    rows, _ = Positions.parse("f2+l2").locate(np.array([6, 3, 1]), np.array([0, 3, 5]), 6)
    assert rows.max() < 3 * 6
    assert len(set(rows.tolist())) == len(rows) == 4 + 2
