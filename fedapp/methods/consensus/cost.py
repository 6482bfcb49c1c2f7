"""What an exchange of answers costs, and how it compares with sending a LoRA update.

bytes per round and client = up + down, up = sum of the answers' bytes, down = sum of the pseudo-labels'
(FedCoFiT's cost depends on the number and length of answers alone, https://arxiv.org/abs/2605.11857).
Prompts are on both sides before the first round and are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedapp.core.checks import require_int, require_number

DIGEST_BYTES = 8
"""With every upload: by which the server sees that the client answers the same public prompts."""


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
