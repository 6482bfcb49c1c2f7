"""What a message would become is known before it is unpacked; numbers are checked as they are copied."""

import io
import json
import time

import ml_dtypes
import numpy as np
import pytest

from fedapp.core.errors import one_line, printable
from fedapp.core.payload import Payload
from fedapp.wire.limits import MAX_DEPTH, Limits, WireError, parse_json
from fedapp.wire.records import Envelope, pack, unpack, unpack_facts
from tests.memory_peak import peak_bytes
from tests.server_side import body, raw_records


def peak_mib(work) -> float:
    def refused():
        with pytest.raises(WireError):
            work()

    return peak_bytes(refused) / 2**20


@pytest.mark.parametrize(
    ("unit", "mib"), [(b"[],", 32), (b"{},", 4), (b"0,", 4), (b'"",', 4), (b'{"":[]},', 16)]
)
def test_a_small_message_of_very_many_values_is_refused_before_they_are_made(unit, mib):
    text = b'{"facts":{"x":[' + unit * (mib * 2**20 // len(unit)) + b'0]},"manifest":[],"texts":{}}'
    records = raw_records(text)
    assert len(records["fedapp-message"]["json"]) < 100_000
    # The text itself, and numbers about a piece of it; 32 MiB of [], would become 800 MiB.
    assert peak_mib(lambda: unpack_facts(records)) < 2 * mib + 20
    with pytest.raises(WireError, match="more than 1048576 values"):
        unpack_facts(records)


def test_values_and_depth_are_those_that_json_has_whatever_stands_in_quotes():
    tricky = {"a": ['[[[[,,,,"\\', "\\\\", '\\"[', {"]": "{" * 50, ",": [1, [2, [3]]]}], "ü\u2028": 5}
    text = json.dumps(tricky).encode()
    assert parse_json(text, max_values=14, max_depth=6) == tricky
    with pytest.raises(WireError, match="more than 13 values"):
        parse_json(text, max_values=13)
    with pytest.raises(WireError, match="deeper than 5"):
        parse_json(text, max_depth=5)


def test_texts_with_many_brackets_are_no_values_across_the_pieces_that_are_counted():
    answers = ['[",\\' * 100_000, "{" * 700_000, "a" * 1_048_570 + '"[[[[[[[[[[[[[']
    assert unpack(pack(Envelope({}, Payload(texts={"answers": answers})))).payload.texts == {
        "answers": answers
    }


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 100_000, 2_000_000])
def test_deep_json_is_refused(depth):
    with pytest.raises(WireError, match="nests deeper than 8|more than 1048576 values"):
        unpack_facts(raw_records(b"[" * depth + b"]" * depth))


@pytest.mark.parametrize("number", ["9" * 4000, "9" * 5000, "1" + "0" * 400])
def test_an_integer_of_thousands_of_digits_is_refused_or_read(number):
    text = b'{"facts":{"x":%s},"manifest":[],"texts":{}}' % number.encode()
    if len(number) > 4300:
        with pytest.raises(WireError, match="number of thousands of digits"):
            unpack_facts(raw_records(text))
    else:
        assert unpack_facts(raw_records(text))["x"] == int(number)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def headed(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


ZIPPED = io.BytesIO()
np.savez(ZIPPED, a=np.zeros(3))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        headed(b"(" * 200 + b")" * 200),
        headed(b"{'descr': " + b"[" * 200 + b"]" * 200 + b", 'fortran_order': False, 'shape': (8,), }\n"),
        headed(b"{'descr': '|u1', 'fortran_order': False, 'shape': (8,), }\n", b"1234"),
        headed(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }\n", b"12345678"),
        headed(b"{'descr': '|O', 'fortran_order': False, 'shape': (8,), }\n", b"12345678"),
        ZIPPED.getvalue(),
        npy(np.zeros((2, 4), np.uint8)),
        npy(np.zeros(8, np.int8)),
        npy(np.zeros(8, np.uint8))[:-1],
        npy(np.zeros(8, np.uint8)) + b"x",
    ],
)
def test_bytes_that_are_no_flat_array_are_refused_without_numpy_reading_their_header(data):
    records = raw_records(body({}, [["w", "float32", [2], 0]]), data)
    with pytest.raises(WireError, match="the blob"):
        unpack(records)


def test_a_manifest_is_checked_as_a_whole_before_anything_is_copied():
    blob = np.zeros(2**24, np.uint8)
    records = raw_records(body({}, [["w", "uint8", [2**24], 0], ["v", "uint8", [1], 2**24]]), npy(blob))
    assert peak_mib(lambda: unpack(records)) < 2


def test_a_text_that_something_follows_and_a_strange_record_key_are_refused():
    records = raw_records(body({}))
    records["fedapp-message"]["json"] += b"more"
    with pytest.raises(WireError, match="followed by something"):
        unpack_facts(records)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64"], ids=["half", "brain", "single", "double"]
)
@pytest.mark.parametrize("at", [0, 2**16 - 1, 2**16, 200_000], ids=["first", "end", "next", "last"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e18, -1e300])
def test_a_number_that_is_not_finite_or_absurdly_large_is_found_wherever_it_stands(dtype, at, value):
    array = np.ones(200_001, np.float64)
    array[at] = value
    with np.errstate(over="ignore"):
        kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        records = pack(Envelope({}, Payload({"w": array.astype(kind)})))
    with pytest.raises(WireError, match=r"its values in 'w' (are not finite|reach .*, more than 1e\+18)"):
        unpack(records, finite=True)
    unpack(records)  # a client's own memory may hold anything


@pytest.mark.parametrize("largest", [1e18, -9e17, 0.0])
def test_large_numbers_that_can_still_be_combined_are_taken(largest):
    array = np.full(100_000, largest, np.float32)
    arrays = {"w": array, "half": np.full(3, 65504, np.float16), "n": np.array([2**62], np.int64)}
    found = unpack(pack(Envelope({}, Payload(arrays))), finite=True).payload.arrays
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_the_limits_of_text_and_arrays_are_apart_and_text_has_the_smaller_one():
    assert Limits().text_bytes == 2**26 < Limits().payload_bytes
    records = pack(Envelope({}, Payload({"w": np.zeros(5000, np.uint8)}, {"t": ["a" * 300]})))
    unpack(records, Limits(payload_bytes=5000, text_bytes=500))
    with pytest.raises(WireError, match="max_text_bytes=300"):
        unpack(records, Limits(payload_bytes=5000, text_bytes=300))
    with pytest.raises(WireError, match="max_payload_bytes=3000"):
        unpack(records, Limits(payload_bytes=3000, text_bytes=500))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x07\x9b\x00", r"\x07\x9b\x00"),
        ("abc\u202edef\u2066", r"abc\u202edef\u2066"),
        ("\ud800", r"\ud800"),
        ("zwölf 漢字 🙂", "zwölf 漢字 🙂"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown_escaped(text, shown):
    assert printable(text) == one_line(text) == shown
    shown.encode("utf-8")


def test_a_failure_text_of_any_length_is_read_in_no_time_and_cut():
    text, started = "<class 'a'>:<'" * 3_000_000, time.process_time()
    assert len(one_line(text)) == 600
    assert time.process_time() - started < 0.2
    assert one_line("<class 'X'>:<'" + "trace\n" * 50_000 + "the reason'>") == "the reason"
