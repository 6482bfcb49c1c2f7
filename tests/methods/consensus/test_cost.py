"""What an exchange of answers costs, against real payloads and against LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from fedapp.core.checks import require_number
from fedapp.core.payload import Payload
from fedapp.core.public_set import PublicSet
from fedapp.methods.consensus.cost import expected_bytes
from fedapp.methods.consensus.differences import as_texts
from fedapp.toy.benchmark import Toy

ALL_LINEAR = ("q", "k", "v", "o", "gate", "up", "down")


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


def lora_ratio(exchange_bytes: float, parameters: int, bytes_per_value: int = 2) -> float:
    """How many times the bytes of both directions a federated LoRA sends: it moves all values up and down.

    Args:
        exchange_bytes: Up and down together, of one client and round.
        parameters: Values of the LoRA update (``Llama.lora_parameters``).
        bytes_per_value: 2 for bf16 and fp16.
    """
    require_number("exchange_bytes", exchange_bytes, "(0, inf)", "number of bytes")
    return 2 * parameters * bytes_per_value / exchange_bytes


@pytest.mark.parametrize(
    ("targets", "per_rank"),
    [(("q", "v"), 6_322_176), (("q", "k", "v", "o"), 12_644_352), (ALL_LINEAR, 38_965_248)],
)
def test_lora_on_llama_405b_has_the_counts_of_its_shape(targets, per_rank):
    # Recomputed by hand: 126 layers x (16384 + 16384) for q, x (16384 + 1024) for v, …
    assert LLAMA_31_405B.lora_parameters(1, targets) == per_rank
    assert LLAMA_31_405B.lora_parameters(16, targets) == 16 * per_rank


@pytest.mark.parametrize(("targets", "payload"), [(("q", "v"), 201_103), (ALL_LINEAR, 1_239_451)])
def test_the_published_factor_is_what_these_payloads_imply(targets, payload):
    # 1006 is FedCoFiT's; its paper does not say of which LoRA and which answers.
    parameters = LLAMA_31_405B.lora_parameters(16, targets)
    assert lora_ratio(2 * payload, parameters) == pytest.approx(1006.0, abs=0.01)


def test_the_expectation_is_exact_where_lengths_are():
    public = PublicSet.of(Toy(num_public=120))
    answers = dict.fromkeys(range(120), "word" * 5)
    up = Payload(texts={"public-set": [public.digest], **as_texts("answers", answers)})
    kept = {number: text for number, text in answers.items() if number < 120}
    down = Payload(texts=as_texts("labels", kept))
    expected = expected_bytes(120, 5, bytes_per_token=4)
    assert (expected.up, expected.down) == (up.num_bytes, down.num_bytes)
    assert expected_bytes(120, 5, kept_share=0.5).down == down.num_bytes / 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: expected_bytes(0, 5), "num_prompts=0"),
        (lambda: expected_bytes(5, -1), "tokens_per_answer=-1"),
        (lambda: expected_bytes(5, 5, kept_share=2), "kept_share=2"),
        (lambda: LLAMA_31_405B.lora_parameters(8, ["qkv"]), "'qkv'; known: q, o"),
        (lambda: lora_ratio(0, 5), "exchange_bytes=0"),
    ],
)
def test_what_cannot_be_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
