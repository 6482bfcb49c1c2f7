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

MAX_ARRAYS = 100_000
DEFAULT_MAX_BYTES = 2**31
ALIGNMENT = 8
_BLOB = "blob"


class WireError(ValueError):
    """A message does not follow the format; it is left out, and the text says why."""


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


def unpack(records: RecordDict, max_bytes: int = DEFAULT_MAX_BYTES, prefix: str = "fedapp") -> Envelope:
    """Read an envelope and check all of it.

    Args:
        records: Content of a message, from a party that is not trusted.
        max_bytes: Largest size accepted, for the blob and for the decompressed text each.
        prefix: As given to ``pack``.

    Raises:
        WireError: If anything is missing, malformed or too large.
    """
    body = _read_body(records, max_bytes, prefix)
    arrays = _unpack_arrays(body["manifest"], _read_blob(records, max_bytes, prefix))
    return Envelope(body["facts"], Payload(arrays, _check_texts(body["texts"])))


def unpack_facts(records: RecordDict, max_bytes: int = DEFAULT_MAX_BYTES) -> dict[str, Any]:
    """Only the plain facts of an envelope, without touching its arrays.

    Raises:
        WireError: As ``unpack``.
    """
    return _read_body(records, max_bytes, "fedapp")["facts"]


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


def _unpack_arrays(manifest: Any, blob: np.ndarray) -> Arrays:
    if not isinstance(manifest, list) or len(manifest) > MAX_ARRAYS:
        raise WireError(f"the manifest must be a list of at most {MAX_ARRAYS} entries")
    arrays: Arrays = {}
    expected = 0
    for entry in manifest:
        name, dtype, shape, offset = _check_entry(entry)
        size = math.prod(shape) * dtype.itemsize
        if name in arrays:
            raise WireError(f"array {name!r} appears twice")
        if offset != expected or offset + size > blob.size:
            raise WireError(f"array {name!r} does not lie where it should in a blob of {blob.size} bytes")
        arrays[name] = blob[offset : offset + size].view(dtype).reshape(shape)
        expected = offset + -(-size // ALIGNMENT) * ALIGNMENT
    if expected != blob.size:
        raise WireError(f"the blob has {blob.size} bytes, its manifest {expected}")
    return arrays


def _check_entry(entry: Any) -> tuple[str, np.dtype, tuple[int, ...], int]:
    if not isinstance(entry, list) or len(entry) != 4:
        raise WireError("a manifest entry must be [name, dtype, shape, offset]")
    name, dtype, shape, offset = entry
    if not isinstance(name, str) or not 0 < len(name) <= 512:
        raise WireError("an array's name must be a text of 1 to 512 characters")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"array {name!r} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(n) for n in shape):
        raise WireError(f"array {name!r} has the malformed shape {shape!r}")
    if not _is_count(offset):
        raise WireError(f"array {name!r} has the malformed offset {offset!r}")
    return name, DTYPES[dtype], tuple(shape), offset


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _check_texts(texts: Any) -> dict[str, list[str]]:
    if not isinstance(texts, dict) or not all(isinstance(values, list) for values in texts.values()):
        raise WireError("texts must be named lists")
    for name, values in texts.items():
        if not all(isinstance(value, str) for value in values):
            raise WireError(f"texts {name!r} must hold texts only")
    return texts


def _read_body(records: RecordDict, max_bytes: int, prefix: str) -> dict[str, Any]:
    body = _read_json(records, max_bytes, f"{prefix}-message")
    if not isinstance(body, dict) or set(body) != {"facts", "manifest", "texts"}:
        raise WireError("the message must hold facts, manifest and texts")
    if not isinstance(body["facts"], dict):
        raise WireError("the message's facts must be a table")
    return body


def _read_json(records: RecordDict, max_bytes: int, name: str) -> Any:
    meta = records.config_records.get(name)
    packed = meta.get("json") if meta is not None else None
    if not isinstance(packed, bytes):
        raise WireError(f"the message has no {name!r} record")
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, max_bytes)
        if not inflater.eof:
            raise WireError(f"the message's text is cut short or larger than max_payload_bytes={max_bytes}")
        return json.loads(text)
    except WireError:
        raise
    except (zlib.error, ValueError, RecursionError) as error:  # also integers of thousands of digits
        raise WireError(f"the message's text cannot be read: {error}") from None


def _read_blob(records: RecordDict, max_bytes: int, prefix: str) -> np.ndarray:
    record = records.array_records.get(f"{prefix}-arrays")
    if record is None:
        return np.zeros(0, np.uint8)
    if list(record) != [_BLOB]:
        raise WireError("the array record must hold one blob")
    array = record[_BLOB]
    if len(array.data) > max_bytes + 1024:
        raise WireError(f"the blob has {len(array.data)} bytes, more than max_payload_bytes={max_bytes}")
    try:
        blob = array.numpy()
    except (ValueError, TypeError, OSError, EOFError, MemoryError) as error:
        raise WireError(f"the blob cannot be read: {error}") from None
    # The record's own dtype and shape are a claim; what the bytes hold is what counts.
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise WireError(f"the blob holds {blob.dtype} {list(blob.shape)} instead of flat uint8")
    return blob
