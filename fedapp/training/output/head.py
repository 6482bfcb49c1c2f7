"""The output head of a causal language model, shown only the positions and the words that count.

The head is the largest matrix of a small model. What it makes of a prompt's tokens would be thrown away, and
a slice of the hidden states that is not contiguous makes torch copy that matrix once for each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedapp.training.tokens import IGNORE, Batch

_CHUNK = 2**22  # values of the vocabulary's logits that are fp32 at a time, 16 MiB (ours)


class OutputHead:
    """Logits of chosen positions, bit for bit in the same order of steps as the model's own forward pass.

    The model itself runs, and with it all that it does behind its head (a cap, a scale): a hook in front of
    the head hands it the chosen hidden states. A model without such a head computes all logits.

    Args:
        model: A causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._narrows: bool | None = None  # whether the model allows for a part of its vocabulary

    def logits(self, ids: Tensor, mask: Tensor, places: Tensor, tokens: Tensor | None = None) -> Tensor:
        """One forward pass.

        Args:
            ids: Token ids, [batch, width].
            mask: Attention mask, [batch, width].
            places: Positions in the flattened [batch * width] tokens, [num_places].
            tokens: Token ids whose logits are wanted at each place, [num_places, num_tokens]; None: all.

        Returns:
            [num_places, num_tokens], or [num_places, vocabulary].
        """
        if tokens is None:
            return self._run(ids, mask, places)
        columns, inverse = torch.unique(tokens, return_inverse=True)
        # peft's and bitsandbytes' heads are no plain ones.
        plain = type(self._model.get_output_embeddings()) is nn.Linear
        if plain and self._narrows:
            with _narrowed(self._model.get_output_embeddings(), columns):
                return self._run(ids, mask, places).gather(1, inverse)
        found = self._run(ids, mask, places).gather(1, tokens)
        if plain and self._narrows is None:
            self._narrows = self._can_narrow(ids[:1, :1], columns)
        return found

    def _run(self, ids: Tensor, mask: Tensor, places: Tensor, past: Any = None) -> Tensor:
        """The same, of all the vocabulary; behind what ``past`` holds, whose tokens ``mask`` counts, too."""
        gathered = []

        def gather(_head: Any, args: tuple[Any, ...]) -> Any:
            if not args or args[0].shape[:-1] != ids.shape:
                return None
            gathered.append(args[0].flatten(0, 1).index_select(0, places).unsqueeze(0))
            return (gathered[-1], *args[1:])

        with _in_front_of(self._model.get_output_embeddings(), gather):
            cache = {"use_cache": False} if past is None else {"use_cache": True, "past_key_values": past}
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask, **cache).logits
        return logits[0] if gathered else logits.flatten(0, 1).index_select(0, places)

    def _can_narrow(self, one: Tensor, columns: Tensor) -> bool:
        """Whether a part of the head gives the whole head's logits, tried on one token, [1, 1].

        It does not where a model treats parts of its vocabulary differently behind the head.
        """
        mask, place = torch.ones_like(one), one.new_zeros(1)
        with torch.no_grad():
            whole = self._run(one, mask, place)[:, columns].float()
            try:
                with _narrowed(self._model.get_output_embeddings(), columns):
                    part = self._run(one, mask, place).float()
            except (RuntimeError, IndexError):
                return False
        return part.shape == whole.shape and torch.allclose(part, whole, rtol=0.02, atol=0.02)


@contextmanager
def contiguous(model: Any) -> Iterator[None]:
    """While open, the head of a model reads contiguous hidden states, also where transformers slices them."""
    with _in_front_of(model.get_output_embeddings(), _make_contiguous):
        yield


def _make_contiguous(_head: Any, args: tuple[Any, ...]) -> Any:
    return (args[0].contiguous(), *args[1:]) if args else None


@contextmanager
def _in_front_of(head: nn.Module | None, hook: Any) -> Iterator[None]:
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _narrowed(head: nn.Module, columns: Tensor) -> Iterator[None]:
    """While open, a linear head computes these entries of the vocabulary alone, [num_columns]."""
    weight, bias = head.get_parameter("weight"), head._parameters.get("bias")
    part = weight.index_select(0, columns)
    shift = None if bias is None else bias.index_select(0, columns)
    head.forward = lambda hidden: functional.linear(hidden, part, shift)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def answer_places(batch: Batch) -> Tensor:
    """Positions whose next token is the answer's, in the flattened [batch * width] tokens, [num_places]."""
    counts = functional.pad(batch.targets[:, 1:] != IGNORE, (0, 1))
    return counts.flatten().nonzero().squeeze(1)


def per_row(losses: Tensor, places: Tensor, batch: Batch) -> Tensor:
    """Sum what belongs to each row, [batch], in the same order on every device.

    Args:
        losses: [num_places].
        places: See ``answer_places``.
        batch: Where they are.
    """
    spread = losses.new_zeros(batch.input_ids.numel()).index_copy(0, places, losses)
    return spread.view_as(batch.input_ids).sum(1)


def answer_losses(head: OutputHead, batch: Batch) -> tuple[Tensor, int]:
    """Cross entropy over the vocabulary of all tokens behind the prompts, [batch], and how many they are.

    Args:
        head: The model's.
        batch: Padded on the right.
    """
    places = answer_places(batch)
    logits = head.logits(batch.input_ids, batch.attention_mask, places)
    losses = token_losses(logits, batch.targets.flatten()[places + 1])
    return per_row(losses, places, batch), len(places)


def answer_ratings(head: OutputHead, batch: Batch) -> tuple[Tensor, int]:
    """The same with how many of a row's tokens are not the likeliest, [batch, 2]."""
    places = answer_places(batch)
    logits = head.logits(batch.input_ids, batch.attention_mask, places)
    targets = batch.targets.flatten()[places + 1]
    parts = token_losses(logits, targets), (logits.argmax(1) != targets).float()
    return torch.stack([per_row(part, places, batch) for part in parts], 1), len(places)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in fp32 without an fp32 copy of all logits.

    Args:
        logits: [num_places, vocabulary], any float dtype.
        targets: Token ids, [num_places].

    Returns:
        Nats, fp32, [num_places].
    """
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    """Keeps nothing but the logits, and turns them into fp32 a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, _CHUNK // logits.shape[1])
        norms = torch.cat([part.float().logsumexp(1) for part in logits.split(rows)])
        ctx.save_for_backward(logits, targets, norms)
        return norms - logits.gather(1, targets.unsqueeze(1)).squeeze(1).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        logits, targets, norms = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = max(1, _CHUNK // logits.shape[1])
        for start in range(0, len(logits), rows):
            some = slice(start, start + rows)
            shares = (logits[some].float() - norms[some, None]).exp_()
            shares.scatter_add_(1, targets[some, None], torch.full_like(shares[:, :1], -1.0))
            result[some] = shares.mul_(gradient[some, None])
        return result, None
