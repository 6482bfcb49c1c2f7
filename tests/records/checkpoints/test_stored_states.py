"""A state in a file: whole, checked, the newest that is not damaged."""

from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest

from fedapp.core.payload import State, Upload
from fedapp.records.checkpoints.memory import find_memory, keep_memory
from fedapp.records.checkpoints.series import Series
from fedapp.records.checkpoints.stored import DamagedState, read_state, write_state

ARRAYS = {
    "z": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "bits": np.array([1, -2], ml_dtypes.bfloat16),
    "number": np.array(3, np.int64),
    "none": np.zeros((0, 3), np.float16),
    "a": np.frombuffer(b"text", np.uint8),
}


def test_a_state_comes_back_to_the_bit_and_in_its_order(tmp_path):
    facts = {"nothing": None, "odd": "\ud800 é", "pairs": [[1, 0.1]], "inf": float("inf")}
    write_state(tmp_path / "new" / "state", State(ARRAYS, facts))
    found = read_state(tmp_path / "new" / "state")
    assert found.facts == facts
    assert list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        assert found.arrays[name].tobytes() == array.tobytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state"]


def test_any_byte_that_is_another_is_found(tmp_path):
    path = tmp_path / "state"
    facts = {"round": 3, "said": "yes"}
    write_state(path, State({"w": np.arange(4, dtype=np.float32)}, facts))
    content, unharmed = path.read_bytes(), 0
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with suppress(DamagedState):  # a blank in the head may become a tab, which says the same
            found = read_state(path)
            assert found.facts == facts
            assert found.arrays["w"].tobytes() == content[-16:]
            unharmed += 1
    assert unharmed < 3
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedState, match=r"state cannot be read"):
        read_state(path)


def test_states_are_joined_and_parted():
    uploads = [Upload({"w": np.ones(2)}, {}, 4, 30, {"loss": 0.5}), Upload({}, {}, 2, 10, {})]
    each = {7: {"b": np.zeros(1), "a": np.ones(1)}, 3: {}}
    joined = State.of({"up": State.of_uploads(uploads), "each": State.of_each(each)}, found=True)
    assert joined.facts["found"] is True
    back = joined.part("up").uploads()
    assert [(u.client_id, u.num_examples, u.metrics) for u in back] == [(4, 30, {"loss": 0.5}), (2, 10, {})]
    assert list(back[0].arrays) == ["w"]
    assert [(number, list(arrays)) for number, arrays in joined.part("each").each().items()] == [
        (7, ["b", "a"]),
        (3, []),
    ]
    assert joined.part("nowhere") == State()


def test_the_newest_states_are_kept_and_a_damaged_one_gives_way_to_the_one_before(tmp_path):
    series, said = Series(tmp_path, keep=2), []
    for number in (1, 2, 5):
        series.write(number, State(facts={"number": number}))
    assert series.rounds() == [2, 5]
    (tmp_path / "round-000005.safetensors").write_bytes(b"half")
    assert next(series.readable(said.append)).facts == {"number": 2}
    assert len(said) == 1
    assert "round-000005.safetensors cannot be read" in said[0]
    series.write(3, State())
    assert series.rounds() == [2, 3]  # what is written anew comes after nothing that was later


def test_a_client_goes_on_with_its_memory_of_the_last_round_that_counts(tmp_path):
    for number in (1, 2, 4):
        keep_memory(tmp_path, number, {"w": np.full(1, number), "a": np.zeros(1)})
    found = {up_to: find_memory(tmp_path, up_to, print) for up_to in (0, 1, 3, 9)}
    assert found[0] is None
    assert [found[up_to]["w"][0] for up_to in (1, 3, 9)] == [1, 2, 4]
    assert list(found[9]) == ["a", "w"]
