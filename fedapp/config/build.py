"""Making the objects that the nodes of a config name; the constructor is the schema."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, cast

from fedapp.config import slots
from fedapp.core.checks import is_number, require_kind, show_value
from fedapp.core.errors import Explained, RowError, is_ours, one_line
from fedapp.core.method import ClientRoutine

T = TypeVar("T")

# Keys of a node that are no settings of its class: what it is, and how it is best trained or scored.
RESERVED = ("about", "recipe")


class ConfigError(Explained, ValueError):
    """The configuration cannot be used; the text is one line for the user.

    Attributes:
        foreign: Whether the text is a library's, which may quote what it read.
    """

    foreign = False


def about(node: Mapping[str, Any], key: str) -> Any:
    """What a group's node says under ``about`` (``name``, ``fingerprint`` …); None if nothing."""
    return (node.get("about") or {}).get(key)


def build(node: Any, where: str, **extra: Any) -> Any:
    """Make the object that a node's ``_target_`` names, nested nodes first.

    Args:
        node: A resolved tree with ``_target_``; its ``about`` and ``recipe`` are passed over.
        where: The node's place in the tree, for messages (``method.strategy``).
        extra: Values that only the caller knows (labels of the benchmark, number of clients).

    Raises:
        ConfigError: If the node is none, no such class may stand there (``fedapp.config.slots``), or its
            constructor refuses a key or value; the message names the setting as one types it.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={show_value(node)} must be a mapping with _target_, the class to make")
    target = node.get("_target_")
    make = _locate(target, where)
    own = {key: value for key, value in node.items() if key not in ("_target_", *RESERVED)}
    parameters = {
        name: p for name, p in inspect.signature(make).parameters.items() if p.kind is not p.VAR_KEYWORD
    }
    for key in (*own, *extra):  # before anything nested is made
        if key not in parameters:
            raise ConfigError(f"{where}.{key} is not a setting of {target}{nearest(key, list(parameters))}")
    values = {key: _build_nested(value, f"{where}.{key}") for key, value in own.items()}
    values |= extra
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values:
            raise ConfigError(f"{where}.{name} is missing; {target} needs it")
    try:
        with place(where, parameters):
            return make(**values)
    except TypeError as error:
        wrong = _mistyped(parameters, values)
        text = f"{wrong}={show_value(values[wrong])} must be a number" if wrong else one_line(error)
        raise ConfigError(_placed(text, where, parameters)) from None


@contextmanager
def place(where: str, names: Iterable[str]) -> Iterator[None]:
    """Put a node's place in front of the short names by which complaints within call its settings.

    Args:
        where: The node's place in the tree (``adapter``).
        names: Its settings; a complaint that begins with none of them is about the node as a whole.

    Raises:
        ConfigError: With the setting as one types it, for any ValueError raised within.
        RowError: The same where it is about a row.
    """
    try:
        yield
    except ConfigError:  # made within from a node of its own, and placed there
        raise
    except RowError as error:
        told, private = (_placed(one_line(text), where, names) for text in (error, error.private))
        raise RowError(told, private) from None
    except ValueError as error:
        refused = ConfigError(_placed(one_line(error), where, names))
        refused.foreign = not is_ours(error)
        raise refused from None


def build_as(kind: type[T], node: Any, where: str, what: str) -> T:
    """Make what a node names, and check what has been made; further errors as in ``build``.

    Args:
        kind: A class or a protocol that it must follow.
        node: As for ``build``.
        where: As for ``build``.
        what: What such an object is called (``a client routine of fedapp.methods``).

    Raises:
        ValueError: If the node names something else.
    """
    made = build(node, where)
    require_kind(where, made, kind, what)
    return cast(T, made)


def build_routine(config: Mapping[str, Any]) -> ClientRoutine:
    """The client half of a run's method; errors as in ``build_as``."""
    node = config["method"]["routine"]
    return build_as(ClientRoutine, node, "method.routine", "a client routine of fedapp.methods")  # type: ignore[type-abstract]


def named_class(target: str) -> Any:
    """What a ``_target_`` of ``conf/`` names, not made yet; None if it cannot be imported here."""
    try:
        return _find(target)
    except (AttributeError, ImportError, ValueError):
        return None


def check_classes(tree: Any) -> None:
    """Refuse a tree that names a class where none such may stand, before anything of it is made.

    Raises:
        ConfigError: That names the first place and what may stand there.
    """
    for where, target in slots.targets(tree):
        _require_admitted(target, where)


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint to append to an error: the names most like ``word``, else all of them."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(sorted(known))}"


def _placed(text: str, where: str, parameters: Iterable[str]) -> str:
    """A constructor's complaint with the place of the setting it begins with in front, once.

    Checks that also run later, when no builder is around, say the place themselves.
    """
    if text.startswith(f"{where}."):
        return text
    named = re.match(r"(\w+)[=.\[:]", text)
    return f"{where}.{text}" if named and named[1] in parameters else f"{where}: {text}"


def _mistyped(parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> str | None:
    """The first setting that has to be a number and is none."""
    for name, parameter in parameters.items():
        numeric = parameter.annotation in ("int", "float", int, float)
        if numeric and name in values and not is_number(values[name]):
            return name
    return None


def _require_admitted(target: Any, where: str) -> None:
    slot = slots.slot_of(where)
    if slots.admits(slot, target):
        return
    known = sorted(slots.admitted(slot))
    close = difflib.get_close_matches(str(target), known, n=2, cutoff=0.5)
    hint = nearest(str(target), close or known) if len(known) <= 6 or close else "; fedapp list shows what is"
    fault = f"is no class for {slot}{hint}" if known else f"cannot be used: no class may stand in {slot}"
    raise ConfigError(f"{where}._target_={show_value(target)} {fault}")


def _locate(target: Any, where: str) -> Any:
    _require_admitted(target, where)
    try:
        return _find(target)
    except AttributeError:
        raise ConfigError(f"{where}._target_={target!r} does not exist") from None
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{where}._target_={target!r} cannot be imported: {one_line(error)}") from None


@cache
def _find(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _build_nested(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, where)
        return {
            key: item if key in RESERVED else _build_nested(item, f"{where}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_build_nested(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return value
