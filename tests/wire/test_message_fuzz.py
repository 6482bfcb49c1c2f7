"""Any bytes and any structures: what is read is read, all else is the project's own error."""

import io
import json
import random
import zlib
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapp.core.payload import DTYPES, Payload
from fedapp.server.replies import ReplyReader
from fedapp.wire.limits import Limits, WireError
from fedapp.wire.messages import Done, Failed, Join, Joined, Work
from fedapp.wire.reading import peek_done, read_done, read_join, read_joined, read_work
from fedapp.wire.records import Envelope, pack, unpack, wire_bytes
from tests.server_side import body, done_facts, raw_records

LIMITS = Limits(payload_bytes=2**20, text_bytes=2**18)
QUICK = settings(max_examples=25, deadline=None, database=None, derandomize=True)
LONG = settings(max_examples=300, deadline=None, database=None)

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-3, 70),
    st.sampled_from([10**400, -(10**400), 2**39, 2**63, 10**4000]),
    st.floats(),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20))
JSON = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(list(done_facts()))), inner, max_size=4
        ),
    ),
    max_leaves=12,
)
KEYS = st.sampled_from([*done_facts(), "failure", "clients", "fingerprints", "examples", "config", "phase"])


@st.composite
def altered(draw, facts):
    """Facts with some of their places replaced by anything, at any depth."""
    changed = json.loads(json.dumps(facts))
    for _ in range(draw(st.integers(1, 3))):
        place = changed
        while isinstance(place, (dict, list)) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[key], (dict, list)) or draw(st.booleans()):
                place[key] = draw(JSON)
                break
            place = place[key]
    changed.update(draw(st.dictionaries(KEYS, JSON, max_size=1)))
    return changed


ENTRY = st.one_of(
    JSON,
    st.tuples(
        st.one_of(st.text(max_size=4), JSON),
        st.one_of(st.sampled_from([*DTYPES, "object"]), JSON),
        st.one_of(st.lists(st.integers(-1, 9), max_size=9), st.lists(NUMBERS, max_size=3)),
        st.one_of(st.integers(0, 64), NUMBERS),
    ).map(list),
)


def npy(data: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.frombuffer(data, np.uint8))
    return buffer.getvalue()


DATA = st.one_of(st.none(), st.binary(max_size=200), st.binary(max_size=64).map(npy))


def outcome(read, records):
    """What was read; None for the project's own error, whose text must be short and printable."""
    try:
        return read(records)
    except WireError as error:
        said = str(error)
    assert len(said) < 1500
    assert said.isprintable()
    return None


READERS = (
    lambda records: unpack(records, LIMITS, finite=True),
    lambda records: read_done(records, 1, 1, "train", LIMITS),
    lambda records: peek_done(records, 1, 1, "train", LIMITS),
    lambda records: read_joined(records, LIMITS),
    read_work,
    read_join,
)


def read_all(records):
    return [outcome(read, records) for read in READERS]


def any_bytes(content, packed, data):
    records = raw_records(content, data)
    if packed is not None:
        records["fedapp-message"] = ConfigRecord({"json": packed})
    read_all(records)


def any_structure(facts, manifest, texts, data):
    records = raw_records(json.dumps({"facts": facts, "manifest": manifest, "texts": texts}).encode(), data)
    read_all(records)
    done = outcome(READERS[1], raw_records(body(facts)))
    if isinstance(done, Done):
        # What was taken can be written down, counted and shown.
        assert np.isfinite(sum(done.metrics.values()) * done.num_examples)
        assert all(np.isfinite(value) for row in done.rows for value in row.scores.values())
        json.dumps([row.facts() for row in done.rows], allow_nan=False)


GIVEN_BYTES = given(st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=100)), DATA)
GIVEN_STRUCTURES = given(
    st.one_of(altered(done_facts()), altered({"clients": [0], "fingerprints": ["f"], "examples": [1]}), JSON),
    st.one_of(st.lists(ENTRY, max_size=3), JSON),
    st.one_of(
        st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=4), max_size=3), max_size=3), JSON
    ),
    DATA,
)


@QUICK
@GIVEN_BYTES
def test_any_bytes_are_read_or_refused(content, packed, data):
    any_bytes(content, packed, data)


@QUICK
@GIVEN_STRUCTURES
def test_any_structure_is_read_or_refused(facts, manifest, texts, data):
    any_structure(facts, manifest, texts, data)


@pytest.mark.slow
@LONG
@GIVEN_BYTES
def test_any_bytes_are_read_or_refused_at_length(content, packed, data):
    any_bytes(content, packed, data)


@pytest.mark.slow
@LONG
@GIVEN_STRUCTURES
def test_any_structure_is_read_or_refused_at_length(facts, manifest, texts, data):
    any_structure(facts, manifest, texts, data)


@QUICK
@given(
    st.dictionaries(
        st.sampled_from(["fedapp-message", "fedapp-arrays", "other"]),
        st.one_of(
            st.builds(lambda data: ConfigRecord({"json": data}), st.one_of(st.binary(max_size=9), st.text())),
            st.builds(lambda x: MetricRecord({"json": x}), st.integers(0, 9)),
            st.builds(
                lambda name, dtype, stype, data: ArrayRecord({name: Array(dtype, (1,), stype, data)}),
                st.sampled_from(["blob", "x"]),
                st.text(max_size=5),
                st.sampled_from(["numpy.ndarray", "", "pickle"]),
                st.binary(max_size=50),
            ),
        ),
    )
)
def test_any_records_are_read_or_refused(records):
    assert set(map(type, read_all(RecordDict(records)))) == {type(None)}


@QUICK
@given(st.data())
def test_what_is_packed_is_read_back(data):
    arrays = data.draw(
        st.dictionaries(
            st.text(min_size=1, max_size=9),
            st.builds(
                lambda name, shape: np.ones(shape, DTYPES[name]),
                st.sampled_from(list(DTYPES)),
                st.lists(st.integers(0, 4), max_size=3).map(tuple),
            ),
            max_size=4,
        )
    )
    texts = data.draw(st.dictionaries(st.text(min_size=1, max_size=9), st.lists(st.text()), max_size=3))
    found = unpack(pack(Envelope({"n": 1}, Payload(arrays, texts))), LIMITS, finite=True)
    assert found.payload.texts == texts
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.payload.arrays.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }
    clients = tuple(data.draw(st.sets(st.integers(0, 99), max_size=4)))
    joined = Joined(clients, ("f",) * len(clients), tuple(range(len(clients))))
    assert read_joined(joined.pack(), LIMITS) == joined
    work = Work("{}", 1, 2, "evaluate", "f", True)
    assert read_work(work.pack()) == work
    assert read_join(Join("[1]").pack()) == Join("[1]")
    assert isinstance(read_joined(Failed(data.draw(st.text())).pack()), Failed)


def mutate(rng: random.Random, honest: bytes, data: bytes) -> RecordDict:
    """An honest reply with some of its bytes changed, cut or repeated, before or after packing."""

    def spoil(text: bytes) -> bytes:
        changed = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(changed) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                changed[at : at + 1] = rng.randbytes(1)
            elif kind == 1:
                del changed[at : at + rng.randrange(20)]
            elif kind == 2:
                start = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + 40] * rng.randint(1, 50)
            else:
                changed[at:at] = rng.choice(
                    [b"[" * 3000, b"1" * 5000, b"[]," * 4000, b'"\\ud800"', b"NaN", b"1e999"]
                )
        return bytes(changed)

    which = rng.randrange(3)
    records = raw_records(spoil(honest) if which == 0 else honest, spoil(data) if which == 1 else data)
    if which == 2:
        records["fedapp-message"] = ConfigRecord({"json": spoil(zlib.compress(honest))})
    return records


def soak(count: int) -> tuple[int, int, int]:
    """Read mutated replies; how many were used, and MiB that the process grew in either half."""
    rng = random.Random(7)
    reader = ReplyReader(LIMITS, lambda message: None, examples={1: 60})
    data = npy(bytes(4 * 4096))
    honest = body(done_facts(), [["w", "float32", [4096], 0]], {"answers": ["a", "b"]})
    metadata = SimpleNamespace(reply_to_message_id="m")
    used, sizes = 0, []
    for number in range(count):
        if number in (count // 10, count // 2):
            sizes.append(psutil.Process().memory_info().rss)
        records = mutate(rng, honest, data)
        message = SimpleNamespace(metadata=metadata, has_error=lambda: False, content=records)
        used += len(reader.read("train", 1, {"m": 1}, [message]))
        wire_bytes(records)
    sizes.append(psutil.Process().memory_info().rss)
    return used, *((b - a) // 2**20 for a, b in pairwise(sizes))


def test_a_short_soak_uses_some_mutated_replies_and_refuses_most():
    used, _, _ = soak(300)
    assert 0 < used < 200


@pytest.mark.slow
def test_20000_mutated_replies_leave_memory_flat():
    used, first, second = soak(20_000)
    assert 0 < used < 12_000
    assert first <= 24  # MiB; what a leak of one upload each would be: 150
    assert second <= 8
