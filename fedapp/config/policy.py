"""A party's policy: a short file on its own machine that says what a run may ask of it.

Without a file the strict defaults hold. In a simulation, where server and clients are one user's, the
word ``open`` stands in the file's place and nothing is guarded.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fedapp.config import slots
from fedapp.core.checks import require_bool, show_value
from fedapp.core.files import OPEN, POLICY_KEY, POLICY_VARIABLE

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
GROUPS = {"methods": "method", "adapters": "adapter", "benchmarks": "benchmark"}
"""Lists of the file, and the group of ``conf/`` whose choices they hold."""


class PolicyError(ValueError):
    """The party's own policy cannot be used; the text is for the party alone."""


@dataclass(frozen=True)
class Share:
    """What may leave the party; each item can be switched off by itself.

    Attributes:
        arrays: What a method uploads: parameters, products of factors, context vectors.
        texts: Answers to public prompts.
        scores: Losses, metrics and what a method measured of itself.
        label_counts: How often the final model gave which label to rows of which label; with ``scores``
            and ``row_counts`` alone.
        row_counts: Numbers of rows.
        task_names: Names of the tasks, which may be names of folders.
        seconds: What the work took.
        fingerprint: Which base model this is, and whether the final model is another party's too; without
            it the party still compares the base with the run's.
        reasons: Why something failed, in the project's own words.
    """

    arrays: bool = True
    texts: bool = False
    scores: bool = True
    label_counts: bool = False
    row_counts: bool = True
    task_names: bool = False
    seconds: bool = True
    fingerprint: bool = True
    reasons: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_bool(f"share.{name}", value)


@dataclass(frozen=True)
class Policy:
    """What a run may ask of a party.

    Attributes:
        data: Folder of the party's rows; None: it has none, only benchmarks that come with fedapp.
        models: Folders, and ids of the hub, of base models; beside them only those that come with
            fedapp or in an installed package.
        output: Folder for final adapters; None: none is kept.
        memory: Folder for what a client must remember between the rounds of a run, so that its node can be
            stopped and started; None: it remembers as long as its node runs.
        log: File of the audit log; None: ``audit.jsonl`` in ``$XDG_STATE_HOME/fedapp``, which is
            ``~/.local/state/fedapp`` by default.
        methods: Choices of ``conf/method`` whose classes may run; empty: all.
        adapters: The same of ``conf/adapter``.
        benchmarks: The same of ``conf/benchmark``.
        network: Whether a run may make this party fetch data or models.
        hostile: Whether a run may make this party send something else than it trained.
        max_upload: Most bytes that leave with one message.
        share: What may leave.
        classes: Further classes that a config may name, by slot (``fedapp.config.slots``).
        open: Nothing is guarded.
    """

    data: str | None = None
    models: tuple[str, ...] = ()
    output: str | None = None
    memory: str | None = None
    log: str | None = None
    methods: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    network: bool = False
    hostile: bool = False
    max_upload: int = UNITS["GiB"]
    share: Share = Share()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    open: bool = False

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> Policy:
        """The policy of the node that this process works for; its classes are admitted.

        Args:
            node_config: What the node was started with; ``policy`` names the file, else the
                environment variable ``FEDAPP_POLICY`` does.

        Raises:
            PolicyError: If the file cannot be read or says something that cannot be used.
        """
        named = node_config.get(POLICY_KEY) or os.environ.get(POLICY_VARIABLE)
        if named == OPEN:
            return _OPEN
        policy = read_policy(str(named)) if named else STRICT
        slots.admit({slot: list(names) for slot, names in policy.classes.items()})
        return policy

    def allows(self, group: str, slot: str, target: str) -> bool:
        """Whether a class may stand in a slot of a group's node, as far as the lists say."""
        names = {"method": self.methods, "adapter": self.adapters, "benchmark": self.benchmarks}.get(group)
        if not names:
            return True
        listed = [slots.choice(group, name).get(slot, frozenset()) for name in names]
        return any(target in classes for classes in [*listed, frozenset(self.classes.get(slot, ()))])


STRICT = Policy()
_OPEN = Policy(
    network=True,
    hostile=True,
    max_upload=2**63,
    share=Share(texts=True, task_names=True, label_counts=True),
    open=True,
)


class _Loader(yaml.SafeLoader):
    """YAML in which nothing is said twice: of two lines the last would count, and nobody would know."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in node.value:
            name = self.construct_object(key, deep=True)
            if name in found:
                raise yaml.YAMLError(
                    f"{name} stands there twice, the second time in line {key.start_mark.line + 1}"
                )
            found[name] = self.construct_object(value, deep=True)
        return found


@lru_cache(maxsize=4)
def _parse(path: str, changed: tuple[int, ...]) -> Policy:
    """A file read once per change."""
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyError(f"policy={path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise PolicyError(f"policy={path} must be a YAML table, as docs/security.md shows it")
    try:
        return _policy(tree, Path(path).parent)
    except ValueError as error:
        raise PolicyError(f"policy={path}: {error}") from None


def read_policy(path: str) -> Policy:
    """Read a policy file.

    Raises:
        PolicyError: If it cannot be read, or holds a key or value that means nothing here.
    """
    file = Path(path).expanduser().absolute()
    try:
        about = file.stat()
    except OSError as error:
        raise PolicyError(f"policy={path} cannot be read: {error.strerror}") from None
    return _parse(str(file), (about.st_mtime_ns, about.st_size, about.st_ino))


def _policy(tree: Mapping[str, Any], folder: Path) -> Policy:
    known = [one.name for one in fields(Policy) if one.name != "open"]
    _refuse_unknown(tree, known, "")
    values = {key: value for key, value in tree.items() if value is not None}  # null: the default
    for name in ("data", "output", "memory", "log"):
        if name in values:
            values[name] = _placed(name, values[name], folder)
    for name in ("models", *GROUPS):
        values[name] = _texts(name, values.get(name, []))
    for name, place in [("data", values.get("data")), *(("models", one) for one in values["models"])]:
        if place is not None and _is_place(place) and not Path(place).is_dir():
            raise ValueError(f"{name}={show_value(place)} must be a folder that is there")
    for name, group in GROUPS.items():
        for one in values[name]:
            if not re.fullmatch(r"[\w.-]+", one) or not slots.choice(group, one):
                raise ValueError(f"{name}={show_value(one)} is no choice of conf/{group} (fedapp list)")
    for name in ("network", "hostile"):
        require_bool(name, values.setdefault(name, False))
    if "max_upload" in values:
        values["max_upload"] = _bytes("max_upload", values["max_upload"])
    share = values.get("share", {})
    if not isinstance(share, dict):
        raise ValueError(f"share={show_value(share)} must be a table of true and false")
    _refuse_unknown(share, [one.name for one in fields(Share)], "share.")
    values["share"] = Share(**share)
    classes = values.get("classes", {})
    if not isinstance(classes, dict):
        raise ValueError(f"classes={show_value(classes)} must be a table of lists, one for each slot")
    values["classes"] = {slot: _own_classes(slot, names) for slot, names in classes.items()}
    return Policy(**values)


def _own_classes(slot: Any, names: Any) -> tuple[str, ...]:
    if not slots.admitted(str(slot)):
        raise ValueError(f"classes.{slot} is no slot; known: {', '.join(slots.known())}")
    found = _texts(f"classes.{slot}", names)
    for name in found:
        if not re.fullmatch(r"\w+(\.\w+)+", name):
            raise ValueError(f"classes.{slot}={show_value(name)} must be a class by its full name")
    return found


def _is_place(text: str) -> bool:
    """Whether a model is named by a folder, not by an id of the hub."""
    return text.startswith(("/", ".", "~")) or text.count("/") > 1


def _refuse_unknown(tree: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for key in tree:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"{prefix}{key} is not a setting; {hint}")


def _placed(name: str, value: Any, folder: Path) -> str:
    """A path; one that is relative begins at the policy file's folder, wherever that is moved."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}={show_value(value)} must be a path")
    return str(folder / Path(value).expanduser())


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(one, str) and one.strip() for one in values):
        raise ValueError(f"{name}={show_value(values)} must be a list of texts")
    return tuple(values)


def _bytes(name: str, value: Any) -> int:
    """A size as people write it: ``64 MiB``; a bare number counts bytes."""
    found = (
        re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)?", str(value).strip()) if type(value) in (str, int) else None
    )
    if not found or not int(found[1]):
        raise ValueError(f"{name}={show_value(value)} must be a size such as 64 MiB")
    return int(found[1]) * UNITS[found[2] or "B"]
