"""An adapted model as lm-evaluation-harness asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM

from fedapp.adapters.base import TrainedModel
from fedapp.adapters.prompting import Prompted
from fedapp.core.train_config import TrainConfig
from fedapp.models.base import Base
from fedapp.training.tokens import Encoded


class AdaptedLM(TemplateLM):  # type: ignore[misc]
    """Likelihoods and texts of an adapted language model; tokenising pairs is the harness's own.

    Args:
        model: The model with its adapter.
        base: The base model.
        train: How long prompts and answers may be.
    """

    def __init__(self, model: TrainedModel | Prompted, base: Base, train: TrainConfig) -> None:
        super().__init__()
        self._model, self._base = model, base
        self._limit = model.trainer.encoder.max_length
        self.tokenizer: Any = base.tokenizer

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of prompts."""
        return self._base.path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; special tokens as the tokenizer adds them unless told otherwise."""
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, verbose=False, **given)["input_ids"])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        rows = []
        for _texts, context, continuation in requests:
            room = max(self._limit - len(continuation), 1)  # a context that is too long loses its start
            kept = context[-room:]
            rows.append(Encoded((kept + continuation)[: self._limit], len(kept)))
        return self._model.rate_rows(rows)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, cut into windows as the harness does, each read behind one token of the last."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        found = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self._limit, context_len=1
            )
            pairs = [make_disjoint_window(window) for window in windows]
            rated = self._loglikelihood_tokens([(("", ""), *pair) for pair in pairs])
            found.append(sum(value for value, _greedy in rated))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy texts, as long as the run allows, up to the first of a request's stop sequences."""
        texts = self._model.generate([request.args[0] for request in requests])
        stops = [request.args[1].get("until") or [] for request in requests]
        return [
            _before([stop] if isinstance(stop, str) else stop, text)
            for stop, text in zip(stops, texts, strict=True)
        ]


def _before(stops: Sequence[str], text: str) -> str:
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text
