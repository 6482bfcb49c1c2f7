"""What leaves a party: each item is named here, and the party's policy decides on it.

The table of docs/security.md is this one; a test looks at every reply of every method and fails on
anything that is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from fedapp.client.admission import Refusal
from fedapp.config.build import ConfigError
from fedapp.config.policy import Policy, Share
from fedapp.core.errors import RowError, is_ours, one_line
from fedapp.core.payload import Payload
from fedapp.core.types import ClientFailure
from fedapp.wire.messages import ClientSizes, Done, Joined
from fedapp.wire.records import WireError

ITEMS: Mapping[str, str] = MappingProxyType(
    {
        "arrays": "arrays",
        "texts": "texts",
        "client-id": "",
        "server-round": "",
        "clients": "",
        "num-examples": "row_counts",
        "examples": "row_counts",
        "metrics": "scores",
        "rows": "scores",
        "rows.label-counts": "label_counts",
        "rows.model-digest": "fingerprint",
        "seconds": "seconds",
        "cpu-seconds": "seconds",
        "about.train": "row_counts",
        "about.validation": "row_counts",
        "about.test": "row_counts",
        "about.parameters": "",
        "about.tasks": "task_names",
        "fingerprints": "fingerprint",
        "remembers": "",
        "failure": "reasons",
    }
)
"""Every fact of a reply, and the item of ``share`` that switches it off; an empty text: the server knows
it anyway, from the config or because it said so itself."""
WITHHELD = "this party's policy keeps the reason; its own log has it"


def release(done: Done, policy: Policy) -> Done:
    """A reply as it may leave.

    What may not leave is taken out where the server can do without, as scores; a reply whose upload
    may not leave is refused as a whole.

    Raises:
        Refusal: If the upload may not leave, or is larger than the policy allows.
    """
    share = policy.share
    _check_upload(done.upload, share, policy.max_upload)
    sizes = done.sizes
    if not share.row_counts:
        sizes = ClientSizes(parameters=sizes.parameters, tasks=sizes.tasks)
    if not share.task_names:
        sizes = replace(sizes, tasks=())
    rows = done.rows if share.scores else ()
    if not (share.label_counts and share.row_counts):  # counts say how many rows there are
        rows = tuple(replace(row, counts=()) for row in rows)
    if not share.row_counts:
        rows = tuple(replace(row, num_examples=0) for row in rows)
    if not share.fingerprint:
        rows = tuple(replace(row, digest="") for row in rows)
    return replace(
        done,
        num_examples=done.num_examples if share.row_counts else 1,
        metrics=done.metrics if share.scores else {},
        rows=rows,
        sizes=sizes,
        seconds=done.seconds if share.seconds else 0.0,
        cpu_seconds=done.cpu_seconds if share.seconds else 0.0,
    )


def release_joined(joined: Joined, policy: Policy) -> Joined:
    """A node's answer as it may leave: an empty fingerprint is one that is kept, as is a single row."""
    if not policy.share.fingerprint:
        joined = replace(joined, fingerprints=("",) * len(joined.clients))
    if not policy.share.row_counts:
        joined = replace(joined, examples=(1,) * len(joined.clients))
    return joined


def reason_for_server(error: Exception, policy: Policy) -> str:
    """What a failure may tell: the project's own words, which hold no row's content; else the kind alone.

    Where nothing is guarded it tells all, rows included: they are the reader's own.
    """
    if policy.open:
        return one_line(error.private if isinstance(error, RowError) else error)
    if not policy.share.reasons:
        return WITHHELD
    if isinstance(error, OSError):  # its text holds a path
        return f"{type(error).__name__} on the party's machine ({error.strerror or 'no reason given'})"
    spoken = isinstance(error, (ClientFailure, ConfigError, RowError, WireError))
    foreign = isinstance(error, ConfigError) and error.foreign
    if not foreign and (spoken or (isinstance(error, ValueError) and is_ours(error))):
        return _masked(one_line(error), policy)
    return f"{type(error).__name__} on the party's machine; its own log says more"


def _masked(text: str, policy: Policy) -> str:
    """A failure's text without the party's places, and without what its policy keeps.

    Names of tasks are those of the folders of the party's data.
    """
    own = {"data": policy.data, "output": policy.output, "memory": policy.memory}
    places = [(folder, f"<{name}>") for name, folder in own.items()]
    places += [(one, "<models>") for one in policy.models if Path(one).is_absolute()]
    places += [(str(Path.cwd()), "<here>"), (str(Path.home()), "<home>")]
    for folder, name in places:
        if folder and len(folder) > 1:
            text = text.replace(str(Path(folder).resolve()), name).replace(folder, name)
    share = policy.share
    if not share.task_names and policy.data:
        names = [path.name for path in Path(policy.data).glob("**/") if path != Path(policy.data)]
        for name in sorted(names, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<task>", text)
    if not share.fingerprint:
        text = re.sub(r"\b[0-9a-f]{16,64}\b", "<fingerprint>", text)
    if not share.row_counts:
        text = re.sub(r"\b\d+(?= (?:\w+ )?(?:rows?|values?|answers)\b)", "<some>", text)
    return text


def reason_for_party(error: Exception) -> str:
    """The whole text, for the party's own log."""
    return one_line(error.private if isinstance(error, RowError) else error, longest=10_000)


def _check_upload(upload: Payload, share: Share, most: int) -> None:
    if upload.arrays and not share.arrays:
        raise Refusal("this method sends arrays, and this party's policy lets none leave (share.arrays)")
    if upload.texts and not share.texts:
        raise Refusal("this method sends texts, and this party's policy lets none leave (share.texts)")
    if upload.num_bytes > most:
        raise Refusal(
            f"the upload has {upload.num_bytes} bytes, more than this party's policy lets leave with one "
            f"message (max_upload: {most})"
        )
