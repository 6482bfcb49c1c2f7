"""A state in a file: whole, checked, the newest that is not damaged."""

import errno
import os
from contextlib import suppress
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from fedapp.core.files import WriteError
from fedapp.core.payload import ArrayOnDisk, ArraysOnDisk, State, Upload
from fedapp.records.checkpoints import series as series_module
from fedapp.records.checkpoints import stored
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


def test_what_lies_on_disk_is_kept_as_what_is_in_memory_without_being_read(tmp_path, monkeypatch):
    facts, kept = {"round": 2}, ArraysOnDisk({1: ARRAYS, 0: {"w": np.arange(400_000, dtype=np.float64)}})
    write_state(tmp_path / "memory", State.of({"a": State(ARRAYS), "each": State.of_each(kept)}, **facts))
    with monkeypatch.context() as patch:
        patch.setattr(ArraysOnDisk, "__getitem__", lambda *_: pytest.fail("it was read as a whole"))
        write_state(tmp_path / "disk", State.of({"a": State(ARRAYS), "each": kept.state()}, **facts))
    assert (tmp_path / "disk").read_bytes() == (tmp_path / "memory").read_bytes()
    found = read_state(tmp_path / "disk").part("each").each()
    assert [list(found), list(found[1])] == [[1, 0], list(ARRAYS)]
    assert found[0]["w"].tobytes() == kept[0]["w"].tobytes()


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"])
def test_the_file_is_one_that_safetensors_reads(kind, tmp_path):
    arrays = {"odd": np.zeros(3, np.uint8), "w": np.array([[0, 1], [1, 0]], kind)}
    write_state(tmp_path / "state", State(arrays))
    found = load_file(tmp_path / "state")
    assert found["w"].dtype == arrays["w"].dtype
    assert found["w"].tolist() == arrays["w"].tolist()


def test_a_type_that_the_format_lacks_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="array 'w' has dtype complex128, which cannot be kept"):
        write_state(tmp_path / "state", State({"w": np.zeros(2, np.complex128)}))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_gets_full_while_a_state_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_state(tmp_path / "state", State({"w": np.ones(3)}))
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("half a state took the place"))
    kept = ArraysOnDisk({0: {"w": np.zeros(9)}})

    def full(array):
        yield memoryview(b"12345678")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ArrayOnDisk, "pieces", full)
    with pytest.raises(WriteError, match="state cannot be written: No space left on device"):
        write_state(tmp_path / "state", State.of({"each": kept.state()}))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert read_state(tmp_path / "state").arrays["w"].tolist() == [1, 1, 1]


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


def test_what_the_disk_has_for_sure_outlives_rounds_shorter_than_a_wait_for_it(tmp_path, monkeypatch):
    now, synced = [100.0], []
    monkeypatch.setattr(series_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(stored, "sync_to_disk", lambda path: synced.append(path.name))
    monkeypatch.setattr(series_module, "sync_to_disk", lambda path: synced.append(path.name))
    series, rows = Series(tmp_path / "server", keep=2, syncs=True), tmp_path / "metrics.jsonl"
    for number in (1, 2, 3, 4):
        series.write(number, State(), [rows])
        now[0] += 1.0
    assert series.rounds() == [1, 3, 4]  # of the last two the disk may have nothing yet
    assert synced == ["metrics.jsonl", "round-000001.safetensors.partial", "server"]
    now[0] += 5.0
    series.write(5, State(), [rows])
    assert series.rounds() == [4, 5]


def test_a_client_goes_on_with_its_memory_of_the_last_round_that_counts(tmp_path):
    for number in (1, 2, 4):
        keep_memory(tmp_path, number, {"w": np.full(1, number), "a": np.zeros(1)})
    found = {up_to: find_memory(tmp_path, up_to, print) for up_to in (0, 1, 3, 9)}
    assert found[0] is None
    assert [found[up_to].arrays["w"][0] for up_to in (1, 3, 9)] == [1, 2, 4]
    assert [found[up_to].server_round for up_to in (1, 3, 9)] == [1, 2, 4]
    assert list(found[9].arrays) == ["a", "w"]
