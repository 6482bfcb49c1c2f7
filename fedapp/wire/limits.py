"""How much a message may hold, checked before anything is made of it.

Every check here takes memory in proportion to what has already arrived, not to what it would become.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

MAX_VALUES = 2**20
"""Values in a message's text: its manifest of 100,000 arrays has about 800,000."""
MAX_DEPTH = 8
"""How deep its text nests; what is packed here nests 4 deep."""
MAX_MAGNITUDE = 1e18
"""Largest number in an array: a sum of 300 products of two such numbers is still an fp32 number."""

_CHUNK = 2**20  # bytes of text, scanned at a time
_VALUES = 2**17  # numbers copied and checked while they are in the processor's cache
_QUOTE, _COMMA = ord('"'), ord(",")
_OPENING, _CLOSING = (ord("["), ord("{")), (ord("]"), ord("}"))
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([^']{1,8})', 'fortran_order': False, "
    rb"'shape': \((\d{1,13}),\), \} *\n",
    re.DOTALL,
)


class WireError(ValueError):
    """A message does not follow the format; it is left out, and the text says why."""


@dataclass(frozen=True)
class Limits:
    """What a message may hold at most; a party that is asked to do work uses these defaults.

    Attributes:
        payload_bytes: Bytes of its arrays.
        text_bytes: Bytes of its text, unpacked: facts, manifest and lists of text together.
        examples: Rows that a client may say it has.
    """

    payload_bytes: int = 2**31
    text_bytes: int = 2**26
    examples: int = 1_000_000


DEFAULT = Limits()


def inflate(packed: bytes, limits: Limits) -> bytes:
    """Decompress a message's text, up to the limit.

    Raises:
        WireError: If it is damaged, cut short, larger or followed by something else.
    """
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, limits.text_bytes)
    except zlib.error as error:
        raise WireError(f"the message's text cannot be read: {error}") from None
    if not inflater.eof:
        raise WireError(f"the message's text is cut short or larger than max_text_bytes={limits.text_bytes}")
    if inflater.unused_data:
        raise WireError("the message's text is followed by something else")
    return text


def parse_json(text: bytes, max_values: int = MAX_VALUES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON, having counted what it would become.

    Args:
        text: In UTF-8.
        max_values: Values of any kind, those in lists and objects included.
        max_depth: Lists and objects within one another.

    Raises:
        WireError: If it holds more values, nests deeper, or is no JSON.
    """
    _count(text, max_values, max_depth)
    try:
        return json.loads(text.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WireError(f"the message's text cannot be read: {error}") from None
    except ValueError:  # Python's own limit for whole numbers
        raise WireError("the message's text holds a number of thousands of digits") from None


def _count(text: bytes, max_values: int, max_depth: int) -> None:
    """Count values and depth, outside of quoted texts; each value but the first follows one of ``,[{``."""
    if b"\\" in text:  # what is left of the quotes after this opens or closes a text
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    values, depth, quotes = 1, 0, 0
    for start in range(0, len(text), _CHUNK):
        piece = np.frombuffer(text, np.uint8, min(_CHUNK, len(text) - start), start)
        seen = np.cumsum(piece == _QUOTE, dtype=np.int32) + quotes
        quotes = int(seen[-1])
        signs = piece[(seen & 1) == 0]
        opening = (signs == _OPENING[0]) | (signs == _OPENING[1])
        closing = (signs == _CLOSING[0]) | (signs == _CLOSING[1])
        values += int(np.count_nonzero(opening) + np.count_nonzero(signs == _COMMA))
        if values > max_values:
            raise WireError(f"the message's text holds more than {max_values} values")
        depths = np.cumsum(opening.astype(np.int8) - closing.astype(np.int8), dtype=np.int32) + depth
        if depths.size and int(depths.max()) > max_depth:
            raise WireError(f"the message's text nests deeper than {max_depth}")
        depth = int(depths[-1]) if depths.size else depth


def blob_of(data: bytes, limits: Limits) -> np.ndarray:
    """The bytes of an array in NumPy's format, which must be flat uint8, without a copy.

    NumPy's own reader parses the header as Python; here it is compared with the only text it may be.

    Returns:
        ``[num_bytes]``, read-only.

    Raises:
        WireError: If it is something else, or larger than the limit.
    """
    if len(data) > limits.payload_bytes + 1024:
        raise WireError(f"the blob has {len(data)} bytes, more than max_payload_bytes={limits.payload_bytes}")
    found = _NPY.match(data)
    if found is None or int.from_bytes(found[1], "little") + 10 != found.end():
        raise WireError("the blob cannot be read: it must be flat uint8 in NumPy's format")
    if found[2] != b"|u1" or int(found[3]) != len(data) - found.end():
        held = found[2].decode("latin-1")
        raise WireError(f"the blob holds {held!r} [{int(found[3])}] instead of its bytes as flat uint8")
    return np.frombuffer(data, np.uint8, offset=found.end())


def copy_values(name: str, raw: np.ndarray, dtype: np.dtype, finite: bool) -> np.ndarray:
    """Copy an array out of a blob, checking its numbers on the way.

    Args:
        name: Of the array, for the error.
        raw: Its bytes, ``[num_bytes]``.
        dtype: What they are.
        finite: Whether to refuse numbers that are not finite or absurdly large; whole ones never are.

    Returns:
        The numbers, ``[num_values]``.

    Raises:
        WireError: If one is not finite or above ``MAX_MAGNITUDE``.
    """
    source = raw.view(dtype)
    copied = np.empty(source.size, dtype)
    looked_at = finite and dtype.kind not in "iu"
    fits = _fits_half if dtype.itemsize == 2 else _fits
    with np.errstate(all="ignore"):
        for start in range(0, source.size, _VALUES):
            values = copied[start : start + _VALUES]
            values[:] = source[start : start + _VALUES]
            if looked_at and not fits(values):  # only what looks wrong is looked at closely
                _require_usable(name, values)
    return copied


def _fits(values: np.ndarray) -> bool:
    """Whether no number ``[num_values]`` can exceed ``MAX_MAGNITUDE``: its square is in the sum of all.

    A NaN or an infinity makes that sum one too. It is one pass at the speed of the cache.
    """
    return bool(np.dot(values, values) < MAX_MAGNITUDE**2)


def _fits_half(values: np.ndarray) -> bool:
    """The same for types of 16 bits ``[num_values]``, whose bits read as whole numbers are in their order.

    With a sign bit they are so among themselves, as unsigned numbers above all the others.
    """
    most = min(MAX_MAGNITUDE, float(ml_dtypes.finfo(values.dtype).max))
    bits = int(np.array([most]).astype(values.dtype).view(np.uint16)[0])
    return int(values.view(np.int16).max()) <= bits and int(values.view(np.uint16).max()) <= bits | 0x8000


def _require_usable(name: str, values: np.ndarray) -> None:
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise WireError(f"its values in {name!r} are not finite")
    largest = float(np.abs(wide).max())
    if largest > MAX_MAGNITUDE:
        raise WireError(f"its values in {name!r} reach {largest:.3g}, more than {MAX_MAGNITUDE:g}")
