"""The wire format: what goes in comes out, and what is not of the format is refused."""

import json
import zlib

import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedapp.core.payload import Payload, spec_of
from fedapp.engines.grid import over_the_wire
from fedapp.wire.limits import Limits
from fedapp.wire.records import Envelope, WireError, pack, unpack, unpack_facts, wire_bytes


def sample() -> Payload:
    arrays = {
        "half": np.arange(3, dtype=np.float32).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5, np.float64),
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "odd": np.arange(5, dtype=np.uint8),
    }
    return Payload(arrays, {"answers": ["", "zwölf", "line\nbreak", "\ud800"], "none": []})


def test_a_payload_survives_the_wire_bit_by_bit():
    envelope = unpack(pack(Envelope({"client-id": 3}, sample())))
    assert envelope.facts == {"client-id": 3}
    assert envelope.payload.texts == sample().texts
    assert spec_of(envelope.payload.arrays) == spec_of(sample().arrays)
    for name, array in sample().arrays.items():
        assert envelope.payload.arrays[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_what_arrives_may_be_written_to():
    arrays = unpack(pack(Envelope({}, sample()))).payload.arrays
    arrays["matrix"] += 1
    assert arrays["matrix"][0, 0] == 1


def test_num_bytes_counts_values_only():
    payload = Payload({"a": np.zeros(3, np.float32), "b": np.zeros(2, ml_dtypes.bfloat16)}, {"t": ["zwölf"]})
    assert payload.num_bytes == 12 + 4 + 6  # ö takes two bytes


def test_wire_bytes_are_those_that_flower_sends():
    from flwr.app import Message

    from fedapp.engines.grid import server_identity

    content = pack(Envelope({"x": 1}, sample()))
    with server_identity(7):
        message = Message(content, dst_node_id=1, message_type="train")
        empty = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = empty.metadata.__dict__["_message_id"] = "m"
    _, sent = over_the_wire(message)
    _, bare = over_the_wire(empty)
    # The message around it (its metadata and the empty record) is not the payload's.
    assert abs(wire_bytes(content) - (sent - bare)) < 200


def test_a_dtype_that_does_not_travel_is_named():
    with pytest.raises(WireError, match="'z' has dtype complex64"):
        pack(Envelope({}, Payload({"z": np.zeros(2, np.complex64)})))


def forged(manifest, blob=None, texts=None) -> RecordDict:
    text = json.dumps({"facts": {}, "manifest": manifest, "texts": texts or {}}).encode()
    records = RecordDict({"fedapp-message": ConfigRecord({"json": zlib.compress(text)})})
    if blob is not None:
        records["fedapp-arrays"] = ArrayRecord({"blob": Array(blob)})
    return records


@pytest.mark.parametrize(
    ("manifest", "size", "said"),
    [
        ([["w", "float32", [4], 0]], 8, "does not lie where it should"),
        ([["w", "float32", [2], 8]], 16, "does not lie where it should"),
        ([["w", "float32", [2], 0]], 16, "its manifest 8"),
        ([["w", "float32", [-2], 0]], 8, "malformed shape"),
        ([["w", "float32", [2.0], 0]], 8, "malformed shape"),
        ([["w", "float32", [True], 0]], 8, "malformed shape"),
        ([["w", "object", [1], 0]], 8, "unknown dtype"),
        ([["w", "float32", [2], 0], ["w", "float32", [2], 8]], 16, "appears twice"),
        ([["", "float32", [2], 0]], 8, "name must be"),
        ([["w", "float32", [2]]], 8, "manifest entry"),
        ([["w", "float32", [2**39, 2**39], 0]], 8, "absurd shape"),
        ([["w", "float32", [0, 2**39, 2**39], 0]], 0, "absurd shape"),
        ("w", 0, "must be a list"),
    ],
)
def test_a_forged_manifest_is_refused(manifest, size, said):
    with pytest.raises(WireError, match=said):
        unpack(forged(manifest, np.zeros(size, np.uint8)))


def test_a_blob_of_another_type_than_it_claims_is_refused():
    array = Array(np.zeros(2, np.float64))
    records = forged([["w", "float32", [4], 0]])
    records["fedapp-arrays"] = ArrayRecord({"blob": Array("uint8", (16,), array.stype, array.data)})
    with pytest.raises(WireError, match="holds '<f8' \\[2\\] instead"):
        unpack(records)


def test_a_message_larger_than_the_limit_is_refused():
    records = pack(Envelope({}, Payload({"w": np.zeros(1000, np.float32)}, {"t": ["a" * 5000]})))
    with pytest.raises(WireError, match="max_text_bytes=2000"):
        unpack(records, Limits(text_bytes=2000))
    blob_only = pack(Envelope({}, Payload({"w": np.zeros(1000, np.float32)})))
    with pytest.raises(WireError, match="more than max_payload_bytes=2000"):
        unpack(blob_only, Limits(payload_bytes=2000))


def test_a_small_message_that_inflates_to_a_large_one_is_refused():
    bomb = pack(Envelope({}, Payload(texts={"t": ["a" * 10_000_000]})))
    assert wire_bytes(bomb) < 20_000
    with pytest.raises(WireError, match="cut short or larger"):
        unpack(bomb, Limits(text_bytes=1_000_000))


@pytest.mark.parametrize(
    "content", [b"", b"junk", zlib.compress(b"{")[:-3], zlib.compress(b"[" * 100_000), zlib.compress(b"[1]")]
)
def test_a_message_that_is_not_of_the_format_is_refused(content):
    records = RecordDict({"fedapp-message": ConfigRecord({"json": content})})
    with pytest.raises(WireError):
        unpack_facts(records)
    with pytest.raises(WireError, match="no 'fedapp-message'"):
        unpack_facts(RecordDict())


@pytest.mark.parametrize("texts", [[1], {"t": "abc"}, {"t": [1]}])
def test_texts_must_be_named_lists_of_texts(texts):
    with pytest.raises(WireError, match="texts"):
        unpack(forged([], texts=texts))
