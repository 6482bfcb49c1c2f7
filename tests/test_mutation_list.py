"""The listed faults fit the code as it is; ``scripts/mutate.py``, level long, sees if tests notice."""

import tomllib

import pytest

from fedapp.core.files import ROOT

EDITS = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text(encoding="utf-8"))["edit"]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit["what"])
def test_an_edit_still_applies_in_one_place(edit):
    assert (ROOT / edit["file"]).read_text(encoding="utf-8").count(edit["old"]) == 1
    assert edit["old"] != edit["new"]


def test_the_list_covers_the_rooms_where_a_fault_stays_silent():
    rooms = {edit["file"].split("/")[1] for edit in EDITS}
    assert rooms >= {"aggregation", "methods", "client", "wire", "training", "adapters", "core"}
    assert len(EDITS) >= 80
