"""From prompts and answers to batches of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.core.errors import RowError
from fedapp.core.types import Example
from fedapp.models.base import Base
from fedapp.models.structure import offset_positions
from fedapp.training.chat import chat_template

IGNORE = -100  # torch's cross entropy skips this target


@dataclass(frozen=True)
class Encoded:
    """One tokenised example: the prompt's tokens, then the answer's (none for a classifier).

    Attributes:
        ids: All tokens.
        prompt_length: How many of them are the prompt's.
        label: A classifier's label index.
        prompt_cut: Whether the prompt lost its start, or a classifier's text its end.
        answer_cut: Whether the answer lost its end, and with it the end-of-sequence token.
        answer_length: Tokens of the whole answer, its end-of-sequence token not counted.
        num_before: The prompt's tokens before the user's own words, under a chat template.
        choices: First tokens of the label words, where the loss is over these alone.
    """

    ids: list[int]
    prompt_length: int
    label: int = IGNORE
    prompt_cut: bool = False
    answer_cut: bool = False
    answer_length: int = 0
    num_before: int = 0
    choices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        input_ids, attention_mask: [batch, width].
        targets: Token to be predicted *at* each position, IGNORE on the prompt, [batch, width];
            for a classifier the label indices, [batch].
        prompt_lengths: Tokens of each prompt.
        offsets: Padding tokens before each prompt.
        num_before: Tokens of each prompt before the user's own words.
        choices: The rows' choices, [batch, num_labels]; None: the loss is over the vocabulary.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    prompt_lengths: np.ndarray
    offsets: np.ndarray
    choices: Tensor | None = None
    num_before: np.ndarray | int = 0

    @property
    def num_predictions(self) -> int:
        """Predictions that the training objective averages over: answer tokens, or labels."""
        return int((self.targets != IGNORE).sum())

    def parts(self, count: int) -> list[Batch]:
        """Cut a right-padded batch into at most ``count`` parts of nearly equal numbers of rows.

        Each part is as wide as its own longest row; one part is the batch itself.
        """
        count = min(count, len(self.input_ids))
        if count == 1:
            return [self]
        return [self._rows(rows) for rows in np.array_split(np.arange(len(self.input_ids)), count)]

    def _rows(self, rows: np.ndarray) -> Batch:
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        width = int(self.attention_mask[some].sum(1).max())
        targets = self.targets[some] if self.targets.dim() == 1 else self.targets[some, :width]
        return Batch(
            self.input_ids[some, :width],
            self.attention_mask[some, :width],
            targets,
            self.prompt_lengths[some],
            self.offsets[some],
            None if self.choices is None else self.choices[some],
            self.num_before[some] if isinstance(self.num_before, np.ndarray) else self.num_before,
        )


# A search over weights asks for the loss of the same validation rows again and again (ours).
_KEPT_SETS = 4
_KEPT_ROWS = 512  # a larger set is tokenised each time: its tokens would take memory for little


class Encoder:
    """Tokenises for one base model and one length limit, in training as in evaluation.

    Prompt and answer are joined by a blank (unless the prompt ends in white space) and tokenised
    together; the answer starts where the prompt's own tokens end, so a prompt looks the same in
    training and in generation. Where a tokenizer merges across that boundary, both are tokenised
    by themselves. The answer ends with the end-of-sequence token.

    What is too long is cut by one rule (docs/training.md). A language model's prompt keeps its last
    ``max_prompt`` tokens, which leaves room for ``max_new_tokens``; a leading special token stays. An
    answer may take all that its prompt leaves of ``max_length``. One that does not fit there with its
    end-of-sequence token is cut and has none: the model does not learn to stop where the room did.
    A classifier's text keeps its first ``max_length`` tokens.

    Attributes:
        window: Most tokens that model and tokenizer allow.
        chat: How prompts become turns of a chat; None: they stand as they are.
        max_length: Longest example in tokens.
        max_prompt: Longest prompt of a language model in tokens.
        max_words: What of it is left to the user's words, within a chat template.
    """

    def __init__(self, base: Base, max_length: int, max_new_tokens: int, template: str = "plain") -> None:
        config = base.model.config.get_text_config()
        positions = offset_positions(base.model) or getattr(config, "max_position_embeddings", None)
        limits = (positions, base.tokenizer.model_max_length)
        self.window = min((limit for limit in limits if limit and limit > 0), default=max_length)
        self.max_length = min(max_length, self.window)
        if base.head == "lm" and max_new_tokens >= self.max_length:
            raise ValueError(
                f"train.max_new_tokens={max_new_tokens} leaves no room for a prompt: train.max_length and "
                f"the model allow {self.max_length} tokens together"
            )
        self._base = base
        self.max_prompt = self.max_length - max_new_tokens
        self._tokenizer: Any = base.tokenizer
        self.chat = chat_template(template, base)
        self._num_before = self.chat.num_before if self.chat else 0
        self.max_words = self.max_prompt - (self.chat.num_around if self.chat else 0)
        if self.max_words < 1:
            raise ValueError(
                f"train.max_length={self.max_length} leaves no room for a prompt: the chat template takes "
                f"{self.max_prompt - self.max_words} tokens, train.max_new_tokens {max_new_tokens}"
            )
        self._kept: dict[tuple[Example, ...], list[Encoded]] = {}

    def examples(self, examples: Sequence[Example]) -> list[Encoded]:
        """Tokenise prompts with their answers; see ``_encode``. The last small sets are remembered."""
        if len(examples) > _KEPT_ROWS:
            return self._encode(examples)
        key = tuple(examples)
        rows = self._kept.pop(key) if key in self._kept else self._encode(key)
        self._kept[key] = rows
        if len(self._kept) > _KEPT_SETS:
            self._kept.pop(next(iter(self._kept)))
        return list(rows)

    def _encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Tokenise prompts with their answers.

        Raises:
            RowError: If an example has nothing to be learned.
        """
        if self._base.head == "classification":
            return self._labelled(examples)
        if self.chat:
            return [self._fitted(*row) for row in self.chat.examples(examples)]
        prompts = self.token_ids([example.prompt for example in examples])
        joined = self.token_ids([_join(example.prompt, example.target) for example in examples])
        eos = [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
        result: list[Encoded] = []
        for example, prompt, both in zip(examples, prompts, joined, strict=True):
            if both[: len(prompt)] == prompt:
                answer = both[len(prompt) :]
            else:
                answer = self._tokenizer(example.target, add_special_tokens=False, verbose=False)["input_ids"]
            if eos and answer[-1:] == eos:  # the target itself says where it ends
                answer = answer[:-1]
            if not answer + eos:
                place = (
                    f"example {len(result)}: its target is empty, and the tokenizer has no end of sequence"
                )
                raise RowError(place, f"{place}; its prompt is {example.prompt[:40]!r}")
            result.append(self._fitted(prompt, answer, eos))
        return result

    def _fitted(self, prompt: list[int], answer: list[int], eos: list[int]) -> Encoded:
        kept = self._cut(prompt)
        room = self.max_length - len(kept)
        return Encoded(
            kept + (answer + eos)[:room],
            len(kept),
            prompt_cut=len(kept) < len(prompt),
            answer_cut=len(answer + eos) > room,
            answer_length=len(answer),
            num_before=self._num_before,
        )

    def prompts(self, prompts: Sequence[str]) -> list[Encoded]:
        """Tokenise prompts alone, as ``examples`` has them."""
        if self._base.head == "classification":
            return self._whole(prompts)
        found = self.chat.prompts(prompts) if self.chat else self.token_ids(prompts)
        rows = [(self._cut(ids), len(ids)) for ids in found]
        skip = self._num_before
        return [Encoded(ids, len(ids), prompt_cut=len(ids) < n, num_before=skip) for ids, n in rows]

    def _labelled(self, examples: Sequence[Example]) -> list[Encoded]:
        for number, example in enumerate(examples):
            if example.label is None or not 0 <= example.label < len(self._base.labels):
                place = (
                    f"example {number}: its label is no index below {len(self._base.labels)}, "
                    "which a classifier needs"
                )
                raise RowError(
                    place, f"{place}; its label is {example.label!r}, its prompt {example.prompt[:40]!r}"
                )
        rows = self._whole([example.prompt for example in examples])
        return [replace(row, label=int(e.label or 0)) for row, e in zip(rows, examples, strict=True)]

    def _whole(self, texts: Sequence[str]) -> list[Encoded]:
        """With the special tokens of an encoder, cut on the right."""
        if not texts:
            return []
        options = {"truncation": True, "max_length": self.max_length}
        result: list[Encoded] = []
        for text, ids in zip(texts, self._tokenizer(list(texts), **options)["input_ids"], strict=True):
            full = len(ids) == self.max_length and len(self._tokenizer(text, verbose=False)["input_ids"])
            ids = ids or [self._start]
            result.append(Encoded(ids, len(ids), prompt_cut=full > self.max_length))
        return result

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without a closing end-of-sequence token, which some tokenizers add."""
        if not texts:
            return []
        rows = self._tokenizer(list(texts), verbose=False)["input_ids"]
        if self._closes:
            rows = [row[:-1] for row in rows]
        return [row or [self._start] for row in rows]

    @cached_property
    def _closes(self) -> bool:
        """Whether the tokenizer ends every text with an end-of-sequence token by itself."""
        whole, alone = (
            self._tokenizer("a", add_special_tokens=given)["input_ids"] for given in (True, False)
        )
        return whole[-1:] == [self._tokenizer.eos_token_id] and len(whole) > len(alone) > 0

    @property
    def _start(self) -> int:
        """What stands for a text without a token."""
        known = self._tokenizer
        ids = (known.bos_token_id, known.eos_token_id, known.unk_token_id, known.pad_token_id)
        return next((number for number in ids if number is not None), 0)

    def _cut(self, ids: list[int]) -> list[int]:
        """A prompt that is too long without its start, where a leading special token stays."""
        if len(ids) <= self.max_prompt:
            return ids
        if self.chat:
            return ids[: self._num_before] + ids[len(ids) - self.max_prompt + self._num_before :]
        if self.max_prompt > 1 and ids[0] in self._tokenizer.all_special_ids:
            return ids[:1] + ids[len(ids) - self.max_prompt + 1 :]
        return ids[len(ids) - self.max_prompt :]

    def batch(self, rows: Sequence[Encoded], *, left: bool = False) -> Batch:
        """Pad to the longest row: on the right for training, on the left for generation."""
        width = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), width), self._tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        targets = np.full((len(rows), width), IGNORE, dtype=np.int64)
        offsets = np.zeros(len(rows), dtype=np.int64)
        for index, row in enumerate(rows):
            start = width - len(row.ids) if left else 0
            end = start + len(row.ids)
            ids[index, start:end] = row.ids
            mask[index, start:end] = 1
            targets[index, start + row.prompt_length : end] = row.ids[row.prompt_length :]
            offsets[index] = start
        if self._base.head == "classification":
            targets = np.array([row.label for row in rows], dtype=np.int64)
        device = self._base.device
        return Batch(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            targets=torch.from_numpy(targets).to(device),
            prompt_lengths=np.array([row.prompt_length for row in rows], dtype=np.int64),
            offsets=offsets,
            num_before=np.array([row.num_before for row in rows], dtype=np.int64),
            choices=torch.tensor([row.choices for row in rows], device=device) if rows[0].choices else None,
        )


def _join(prompt: str, target: str) -> str:
    return f"{prompt}{'' if prompt[-1:].isspace() else ' '}{target}"
