"""What a file of conf/method says of itself under ``contract:``, for the tests that go over all methods.

``toy`` holds overrides that make the toy world fit, ``uploaded`` and ``first`` the bytes that a client sends
in a round and gets in the first, ``answers`` whether clients send answers instead of arrays, ``exempt`` the
promises of tests/test_method_properties.py that the method does not make, each with the reason.
"""

from dataclasses import dataclass, field

import yaml

from fedapp.config.choices import groups
from fedapp.core.files import CONF

METHODS = groups()["method"]


@dataclass(frozen=True)
class Contract:
    """The defaults are those of a method that sends all three vectors of four fp32 values."""

    toy: list[str] = field(default_factory=list)
    uploaded: int = 48
    first: int = 0
    answers: bool = False
    exempt: dict[str, str] = field(default_factory=dict)


def contract(method: str) -> Contract:
    """The contract of a method; a misspelt key is an error."""
    tree = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8"))
    return Contract(**tree.get("contract", {}))
