"""Prompts and answers as turns of a conversation, by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedapp.core.types import Example
from fedapp.models.base import Base

_PROBE = "\u2042probe\u2042"  # stands in no template


def chat_template(template: str, base: Base) -> ChatTemplate | None:
    """How this model's prompts are wrapped; None: they stand as they are.

    Args:
        template: ``TrainConfig.template``.
        base: The model with its tokenizer.

    Raises:
        ValueError: If a chat is asked for where there is none.
    """
    if template == "plain" or (
        template == "auto" and (base.head != "lm" or not base.tokenizer.chat_template)
    ):
        return None
    if base.head != "lm":
        raise ValueError("train.template='chat' needs model.head=lm, as a classifier has no turns: set auto")
    if not base.tokenizer.chat_template:
        raise ValueError(
            f"train.template='chat': the tokenizer of {base.path or 'this model'} has no chat template; "
            "take an instruct model, or set auto or plain"
        )
    return ChatTemplate(base)


class ChatTemplate:
    """A prompt is the user's turn, its answer the assistant's.

    Attributes:
        num_before: Tokens before the user's words: system text, the turn's opening.
        num_around: Tokens of the template around the user's words, those before counted, too.
    """

    def __init__(self, base: Base) -> None:
        self._tokenizer: Any = base.tokenizer
        known = base.model.generation_config.eos_token_id
        listed = known if isinstance(known, list) else [known]
        self._ends = {base.tokenizer.eos_token_id, *listed} - {None}
        before, _, after = self._render(_PROBE).partition(_PROBE)
        self.num_before = len(self._ids([before])[0])
        self.num_around = self.num_before + len(self._ids([after])[0])

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids up to where the assistant's words begin."""
        return self._ids([self._render(prompt) for prompt in prompts])

    def conversation(self, turns: Sequence[str]) -> tuple[list[int], int]:
        """Token ids up to where the assistant's next words begin, and how many stand before the user's last.

        Args:
            turns: The user's and the assistant's words by turns, the user's first and last.
        """
        roles = ("user", "assistant")
        earlier = [{"role": roles[n % 2], "content": said} for n, said in enumerate(turns[:-1])]
        before = self._render(_PROBE, earlier=earlier).partition(_PROBE)[0]
        ids, head = self._ids([self._render(turns[-1], earlier=earlier), before])
        return ids, len(head)

    def examples(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int], list[int]]]:
        """Token ids of each prompt, of its answer, and of the assistant's end of turn."""
        opened = [self._render(example.prompt) for example in examples]
        whole = [self._render(example.prompt, example.target) for example in examples]
        found = []
        rows = zip(examples, opened, whole, self._ids(opened), self._ids(whole), strict=True)
        for example, start, text, prompt, both in rows:
            if both[: len(prompt)] == prompt:
                answer = both[len(prompt) :]
            else:  # a template that writes a past turn otherwise than the one to come
                rest = text[len(start) :] if text.startswith(start) else example.target
                answer = self._ids([rest])[0]
            last = max((place for place, token in enumerate(answer) if token in self._ends), default=None)
            # What a template writes behind the end of the turn is never asked of the model.
            end = answer[last : last + 1] if last is not None else [self._tokenizer.eos_token_id]
            found.append((prompt, answer[:last], [token for token in end if token is not None]))
        return found

    def _render(self, prompt: str, answer: str | None = None, earlier: Sequence[dict[str, str]] = ()) -> str:
        turns = [*earlier, {"role": "user", "content": prompt}]
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        return str(
            self._tokenizer.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)
        )

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        rows = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return list(rows["input_ids"])
