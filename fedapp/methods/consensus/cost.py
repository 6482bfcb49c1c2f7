"""What an exchange of answers costs, and how it compares with sending a LoRA update.

bytes per round and client = up + down, up = sum of the answers' bytes, down = sum of the pseudo-labels'
(FedCoFiT's cost depends on the number and length of answers alone, https://arxiv.org/abs/2605.11857).
Prompts are on both sides before the first round and are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedapp.core.checks import require_int, require_number

DIGEST_BYTES = 8
"""With every upload: by which the server sees that the client answers the same public prompts."""


@dataclass(frozen=True)
class Llama:
    """The shape of a Llama-like decoder, as far as LoRA's size depends on it.

    Attributes:
        layers: Number of blocks.
        hidden: Width.
        key_value: Width of keys and of values (heads of them times their size).
        inner: Width inside the MLP.
    """

    layers: int
    hidden: int
    key_value: int
    inner: int

    def lora_parameters(self, rank: int, targets: Sequence[str] = ("q", "v")) -> int:
        """Entries of A and B over all layers, for targets out of q, k, v, o, gate, up, down.

        Raises:
            ValueError: If a target is none of these.
        """
        attention = dict.fromkeys(("q", "o"), self.hidden + self.hidden)
        attention |= dict.fromkeys(("k", "v"), self.hidden + self.key_value)
        sides = attention | dict.fromkeys(("gate", "up", "down"), self.hidden + self.inner)
        if odd := [name for name in targets if name not in sides]:
            raise ValueError(f"targets={list(targets)} has {odd[0]!r}; known: {', '.join(sides)}")
        return rank * self.layers * sum(sides[name] for name in targets)


LLAMA_31_405B = Llama(layers=126, hidden=16384, key_value=1024, inner=53248)
"""Source: config.json of https://huggingface.co/meta-llama/Llama-3.1-405B (8 key-value heads of 128)."""


@dataclass(frozen=True)
class Answers:
    """What has to be assumed of answers before there are any.

    Attributes:
        prompts: Public prompts answered in a round.
        tokens: Mean length of an answer in tokens.
        bytes_per_token: Mean UTF-8 bytes of a token: about 4 in English for vocabularies of 32,000 to
            128,000 entries (ours).
    """

    prompts: int = 1000
    tokens: float = 64.0
    bytes_per_token: float = 4.0

    def __post_init__(self) -> None:
        require_int("--prompts", self.prompts, at_least=1)
        require_number("--answer-tokens", self.tokens, "(0, inf)")
        require_number("--token-bytes", self.bytes_per_token, "(0, inf)")

    def __str__(self) -> str:
        length = f"{self.tokens:g} tokens an answer, {self.bytes_per_token:g} bytes a token"
        return f"{self.prompts:,} public prompts, {length}"


@dataclass(frozen=True)
class ExpectedBytes:
    """Payload bytes of one client in one round from the second on; the first one's download is empty."""

    up: float
    down: float


def expected_bytes(
    num_prompts: int, tokens_per_answer: float, *, bytes_per_token: float = 4.0, kept_share: float = 1.0
) -> ExpectedBytes:
    """Payload bytes of an exchange in which everything is sent (``adaptive=false``).

    It is exact where the answers' mean length is; assumed are ``bytes_per_token`` (UTF-8 bytes of text per
    token: about 4 in English for vocabularies of 32,000 to 128,000 entries, ours) and ``kept_share``. Prompt
    ids (their decimal digits) count, containers do not, as in ``payload-bytes`` of traffic.jsonl.

    Args:
        num_prompts: Public prompts answered.
        tokens_per_answer: Mean length of an answer.
        bytes_per_token: Mean UTF-8 bytes of a token.
        kept_share: Share of prompts that reach the quorum, in [0, 1].
    """
    require_int("num_prompts", num_prompts, at_least=1)
    require_number("tokens_per_answer", tokens_per_answer, "[0, inf)")
    require_number("bytes_per_token", bytes_per_token, "(0, inf)")
    require_number("kept_share", kept_share, "[0, 1]")
    ids = sum(len(str(number)) for number in range(num_prompts))
    texts = num_prompts * tokens_per_answer * bytes_per_token
    return ExpectedBytes(up=DIGEST_BYTES + ids + texts, down=kept_share * (ids + texts))


def lora_ratio(exchange_bytes: float, parameters: int, bytes_per_value: int = 2) -> float:
    """How many times the bytes of both directions a federated LoRA sends: it moves all values up and down.

    Args:
        exchange_bytes: Up and down together, of one client and round.
        parameters: Values of the LoRA update (``Llama.lora_parameters``).
        bytes_per_value: 2 for bf16 and fp16.
    """
    require_number("exchange_bytes", exchange_bytes, "(0, inf)", "number of bytes")
    return 2 * parameters * bytes_per_value / exchange_bytes
