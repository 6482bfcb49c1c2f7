"""Arrays that wait in a nameless file: bit for bit, in places that are used again, handed on unread."""

import ml_dtypes
import numpy as np
import pytest

from fedapp.core.payload import PIECE_BYTES, ArraysOnDisk, State, Upload, UploadsOnDisk

ODD = {
    "bits": np.array([1, -2, 3], ml_dtypes.bfloat16),
    "number": np.array(3, np.int64),
    "none": np.zeros((0, 3), np.float16),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


def size_of(kept):
    return kept._file.seek(0, 2)


def test_what_is_looked_up_is_what_was_put_in_and_unread_it_has_the_same_bytes():
    large = np.arange(PIECE_BYTES // 8 * 2 + 5, dtype=np.float64)
    kept = ArraysOnDisk({7: ODD, 2: {"large": large}, 5: {}})
    assert list(kept) == [7, 2, 5]
    for name, array in ODD.items():
        found, there = kept[7][name], kept.unread(7)[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert (there.dtype, there.shape) == (array.dtype, array.shape)
        assert b"".join(map(bytes, there.pieces())) == array.tobytes()
    pieces = [bytes(piece) for piece in kept.unread(2)["large"].pieces()]
    assert max(map(len, pieces)) == PIECE_BYTES
    assert b"".join(pieces) == large.tobytes()


def test_memories_that_grow_by_a_little_each_round_do_not_fill_the_disk():
    kept = ArraysOnDisk()
    for number in range(200):
        for client in range(3):
            kept[client] = {"w": np.full(10_000 + number, client, np.uint8)}
    assert size_of(kept) <= 6 * 12_288
    assert all(
        (kept[client]["w"] == client).all() and kept[client]["w"].size == 10_199 for client in range(3)
    )


def test_what_was_taken_out_makes_room():
    kept = ArraysOnDisk({client: {"w": np.full(5000, client, np.uint8)} for client in range(4)})
    del kept[1]
    kept[9] = {"w": np.full(6000, 9, np.uint8)}
    assert size_of(kept) <= 4 * 8192
    assert [int(kept[client]["w"][-1]) for client in kept] == [0, 2, 3, 9]


def test_a_state_of_what_lies_on_disk_reads_nothing(monkeypatch):
    uploads = [Upload(ODD, {"t": ["x"]}, 4, 30, {"loss": 0.5}), Upload({}, {}, 2, 10, {})]
    kept, sent = ArraysOnDisk({3: ODD, 1: {}}), UploadsOnDisk(uploads)
    expected = State.of({"kept": State.of_each(kept), "sent": State.of_uploads(uploads)})
    monkeypatch.setattr(ArraysOnDisk, "__getitem__", lambda *_: pytest.fail("it was read"))
    found = State.of({"kept": kept.state(), "sent": sent.state()})
    assert found.facts == expected.facts
    assert found.arrays == {}
    assert list(found.unread) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert b"".join(map(bytes, found.unread[name].pieces())) == array.tobytes()
    assert list(found.part("kept").unread) == [f"3/{name}" for name in ODD]
