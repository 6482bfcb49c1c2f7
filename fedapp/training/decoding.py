"""How a language model decodes: greedy, or sampled from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fedapp.core.types import Decoding
from fedapp.models.base import Base


def generation_config(base: Base, max_new_tokens: int, decoding: Decoding | None) -> Any:
    """Settings for ``generate``; explicit, so that those that came with a checkpoint play no part.

    Args:
        base: The model and its tokenizer.
        max_new_tokens: Longest answer in tokens.
        decoding: None: greedy.
    """
    from transformers import GenerationConfig

    tokenizer = base.tokenizer
    known = base.model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    drawn: dict[str, Any] = {"do_sample": False}
    if decoding is not None:
        # Without top_k=0 transformers would cut to the 50 likeliest tokens.
        drawn = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends) or None,
        **drawn,
    )


@contextmanager
def seeded(base: Base, decoding: Decoding | None) -> Iterator[None]:
    """While open, torch draws from the decoding's seed; the caller's random numbers are left alone."""
    if decoding is None:
        yield
        return
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(decoding.seed)
        yield
