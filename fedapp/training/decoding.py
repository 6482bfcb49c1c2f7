"""How a language model decodes: greedy, or sampled from a seed; what a seed and a mode hold for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from fedapp.core.types import Decoding
from fedapp.models.base import Base
from fedapp.training.output.head import contiguous
from fedapp.training.tokens import Batch, Encoded, Encoder


def newest_turns(encoder: Encoder, turns: Sequence[str]) -> tuple[Encoded, int]:
    """As many of a conversation's newest turns as fit the model's window beside an answer; how many do not.

    What was trained on one turn acts on the user's last: its positions are counted from there. A last turn
    that does not fit by itself is cut as in training.

    Args:
        encoder: With a chat template.
        turns: The user's and the model's words by turns, the user's first and last.
    """
    assert encoder.chat is not None  # as ``converses`` says
    room = encoder.window - (encoder.max_length - encoder.max_prompt)
    for left_out in range(0, len(turns), 2):
        ids, num_before = encoder.chat.conversation(turns[left_out:])
        if len(ids) <= room:
            return Encoded(ids, len(ids), num_before=num_before), left_out
    return encoder.prompts(turns[-1:])[0], len(turns) - 1


def complete(base: Base, batch: Batch, max_new_tokens: int, decoding: Decoding | None) -> list[str]:
    """Generate a text behind each prompt of a left-padded batch, up to an end-of-sequence token."""
    settings = generation_config(base, max_new_tokens, decoding)
    with _only(base.model, settings), contiguous(base.model):
        output = base.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=settings
        )
    new = output[:, batch.input_ids.shape[1] :]
    return [text.strip() for text in base.tokenizer.batch_decode(new, skip_special_tokens=True)]


def generation_config(base: Base, max_new_tokens: int, decoding: Decoding | None) -> Any:
    """Settings for ``generate``: all of them, those that came with a checkpoint left aside unless asked for.

    Args:
        base: The model and its tokenizer; what ends a sequence is taken from the checkpoint's own settings
            (some models have several such tokens), and with ``generation="checkpoint"`` all of them but
            how many tokens are drawn, and how: that is the run's to say.
        max_new_tokens: Longest answer in tokens.
        decoding: None: greedy.
    """
    from transformers import GenerationConfig

    tokenizer = base.tokenizer
    known = base.model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}
    drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if decoding is not None:
        # Without top_k=0 transformers would cut to the 50 likeliest tokens.
        drawn = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    settings = (
        deepcopy(base.model.generation_config) if base.generation == "checkpoint" else GenerationConfig()
    )
    settings.update(
        max_length=None,
        max_new_tokens=max_new_tokens,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends) or None,
        **drawn,
    )
    return settings


@contextmanager
def _only(model: Any, settings: Any) -> Iterator[None]:
    """While open, the model has no other generation settings.

    ``generate`` fills every setting that it is not given from the model's own, so a checkpoint's
    ``repetition_penalty`` or ``suppress_tokens`` would act without anybody having asked for it.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def seeded(base: Base, seed: int | None) -> Iterator[None]:
    """While open, torch draws from a seed, if one is given; the caller's random numbers are left alone."""
    if seed is None:
        yield
        return
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def in_training(modules: Sequence[nn.Module]) -> Iterator[None]:
    """While open, these modules (dropout) are in training mode."""
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()
