"""What crosses the network, and the only place where Flower records are packed and unpacked.

A payload's arrays travel as one blob with a manifest: every array of a record costs round trips
in a deployment, one costs as little as can be. Its texts travel as compressed JSON. Whatever
arrives is checked (names, dtypes, shapes, lengths, size) before anything is made of it.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedapp.core.payload import DTYPES, Payload
from fedapp.core.types import Arrays
from fedapp.wire.limits import DEFAULT, Limits, WireError, blob_of, copy_values, inflate, parse_json

MAX_ARRAYS = 100_000
MAX_LISTS = 64
ALIGNMENT = 8
_BLOB = "blob"
_NUMPY = "numpy.ndarray"
_Entry = tuple[str, np.dtype, tuple[int, ...], int]


@dataclass(frozen=True)
class Envelope:
    """A payload with the plain facts that travel beside it (JSON values)."""

    facts: dict[str, Any]
    payload: Payload = field(default_factory=Payload)


def pack(envelope: Envelope, prefix: str = "fedapp") -> RecordDict:
    """Turn an envelope into Flower records: one array at most, one config record.

    Args:
        envelope: What to send or keep.
        prefix: Start of the records' names, so that several envelopes can share a ``RecordDict``.
    """
    manifest, blob = _pack_arrays(envelope.payload.arrays)
    body = {"facts": envelope.facts, "manifest": manifest, "texts": envelope.payload.texts}
    text = json.dumps(body, allow_nan=True).encode("ascii")
    records = RecordDict(
        {f"{prefix}-message": ConfigRecord({"size": len(text), "json": zlib.compress(text, 6)})}
    )
    if manifest:
        records[f"{prefix}-arrays"] = ArrayRecord({_BLOB: Array(blob)})
    return records


def unpack(
    records: RecordDict, limits: Limits = DEFAULT, prefix: str = "fedapp", finite: bool = False
) -> Envelope:
    """Read an envelope and check all of it.

    Args:
        records: Content of a message, from a party that is not trusted.
        limits: Most that is accepted.
        prefix: As given to ``pack``.
        finite: Whether to refuse arrays with numbers that are not finite or absurdly large.

    Raises:
        WireError: If anything is missing, malformed or too large.
    """
    body = _read_body(records, limits, prefix)
    texts = _check_texts(body["texts"])
    arrays = _unpack_arrays(body["manifest"], _read_blob(records, limits, prefix), finite)
    return Envelope(body["facts"], Payload(arrays, texts))


def require_own(records: RecordDict, prefix: str = "fedapp") -> None:
    """Refuse a message with records beside those that ``pack`` makes.

    Raises:
        WireError: If there is one.
    """
    odd = sorted(set(records) - {f"{prefix}-message", f"{prefix}-arrays"})
    if odd:
        raise WireError(f"the message has a record {show(odd[0])} that is not of the format")


def unpack_facts(records: RecordDict, limits: Limits = DEFAULT) -> dict[str, Any]:
    """Only the plain facts of an envelope, without touching its arrays.

    Raises:
        WireError: As ``unpack``.
    """
    return _read_body(records, limits, "fedapp")["facts"]


def wire_bytes(records: RecordDict) -> int:
    """Exact bytes of the records as Flower serialises them, before HTTP and TLS framing."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(records).values())


def _pack_arrays(arrays: Arrays) -> tuple[list[list[Any]], np.ndarray]:
    manifest: list[list[Any]] = []
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        if str(array.dtype) not in DTYPES:
            known = ", ".join(DTYPES)
            raise WireError(
                f"array {name!r} has dtype {array.dtype}, which does not travel; use one of {known}"
            )
        manifest.append([name, str(array.dtype), list(array.shape), offset])
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    blob = np.zeros(offset, np.uint8)
    for name, _, _, start in manifest:
        flat = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
        blob[start : start + flat.size] = flat
    return manifest, blob


def _unpack_arrays(manifest: Any, blob: np.ndarray, finite: bool) -> Arrays:
    if not isinstance(manifest, list) or len(manifest) > MAX_ARRAYS:
        raise WireError(f"the manifest must be a list of at most {MAX_ARRAYS} entries")
    entries = [_check_entry(entry) for entry in manifest]
    _check_places(entries, blob.size)
    arrays: Arrays = {}
    for name, dtype, shape, offset in entries:  # nothing is copied before all is known to fit
        raw = blob[offset : offset + math.prod(shape) * dtype.itemsize]
        arrays[name] = copy_values(name, raw, dtype, finite).reshape(shape)
    return arrays


def _check_places(entries: list[_Entry], num_bytes: int) -> None:
    expected = 0
    seen: set[str] = set()
    for name, dtype, shape, offset in entries:
        size = math.prod(shape) * dtype.itemsize
        if name in seen:
            raise WireError(f"array {name!r} appears twice")
        if offset != expected or offset + size > num_bytes:
            raise WireError(f"array {name!r} does not lie where it should in a blob of {num_bytes} bytes")
        seen.add(name)
        expected = offset + -(-size // ALIGNMENT) * ALIGNMENT
    if expected != num_bytes:
        raise WireError(f"the blob has {num_bytes} bytes, its manifest {expected}")


def _check_entry(entry: Any) -> _Entry:
    if not isinstance(entry, list) or len(entry) != 4:
        raise WireError("a manifest entry must be [name, dtype, shape, offset]")
    name, dtype, shape, offset = entry
    if not isinstance(name, str) or not 0 < len(name) <= 512:
        raise WireError("an array's name must be a text of 1 to 512 characters")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"array {name!r} has the unknown dtype {show(dtype)}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(n) for n in shape):
        raise WireError(f"array {name!r} has the malformed shape {show(shape)}")
    if math.prod(max(size, 1) for size in shape) >= 2**40:  # also of an array that is empty in one direction
        raise WireError(f"array {name!r} has the absurd shape {show(shape)}")
    if not _is_count(offset):
        raise WireError(f"array {name!r} has the malformed offset {show(offset)}")
    return name, DTYPES[dtype], tuple(shape), offset


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _check_texts(texts: Any) -> dict[str, list[str]]:
    if not isinstance(texts, dict) or not all(isinstance(values, list) for values in texts.values()):
        raise WireError("texts must be named lists")
    if len(texts) > MAX_LISTS or not all(0 < len(name) <= 128 for name in texts):
        raise WireError(f"texts must be at most {MAX_LISTS} lists with names of 1 to 128 characters")
    for name, values in texts.items():
        if not all(isinstance(value, str) for value in values):
            raise WireError(f"texts {name!r} must hold texts only")
    return texts


def _read_body(records: RecordDict, limits: Limits, prefix: str) -> dict[str, Any]:
    meta = records.config_records.get(f"{prefix}-message")
    packed = meta.get("json") if meta is not None else None
    if not isinstance(packed, bytes):
        raise WireError(f"the message has no '{prefix}-message' record")
    body = parse_json(inflate(packed, limits))
    if not isinstance(body, dict) or set(body) != {"facts", "manifest", "texts"}:
        raise WireError("the message must hold facts, manifest and texts")
    if not isinstance(body["facts"], dict):
        raise WireError("the message's facts must be a table")
    return body


def _read_blob(records: RecordDict, limits: Limits, prefix: str) -> np.ndarray:
    record = records.array_records.get(f"{prefix}-arrays")
    if record is None:
        return np.zeros(0, np.uint8)
    if list(record) != [_BLOB]:
        raise WireError("the array record must hold one blob")
    array = record[_BLOB]
    if array.stype != _NUMPY:
        raise WireError("the blob must be in NumPy's format")
    # The record's own dtype and shape are a claim; what the bytes hold is what counts.
    return blob_of(array.data, limits)


def show(value: Any) -> str:
    """A value of a message as an error quotes it: at most 60 characters of a text, the kind of a list."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "…")
    if isinstance(value, int) and value.bit_length() > 100:
        return "a number of more than 30 digits"
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list) and len(value) <= 8 and all(type(one) in (int, float, bool) for one in value):
        return f"[{', '.join(map(show, value))}]"
    return "a list" if isinstance(value, list) else "an object"
