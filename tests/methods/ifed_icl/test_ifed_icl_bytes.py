"""The paper's byte counts, from models of the published shapes without weights."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from fedapp.adapters.context.sites import residual_sites
from fedapp.aggregation import Mean
from fedapp.core.method import MessageSpec
from fedapp.core.payload import DTYPES, Payload
from fedapp.methods.ifed_icl.client import ContextSharing
from fedapp.methods.ifed_icl.server import ContextAggregation
from tests.server_side import FIRST, TRAIN

# Source: the models' config.json on the hub.
LLAMA_3_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
QWEN_2_5_7B = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)


@pytest.mark.parametrize(
    ("kind", "config", "vector_kib", "num_coefficients"),
    [(LlamaForCausalLM, LLAMA_3_8B, 512, 128), (Qwen2ForCausalLM, QWEN_2_5_7B, 392, 112)],
)
def test_vectors_and_coefficients_weigh_what_the_formulas_say(kind, config, vector_kib, num_coefficients):
    with torch.device("meta"):
        model = kind(config).eval()
    sites = residual_sites(model)
    shapes = {"coefficients": (len(sites), 2, 2), "context-vectors": (len(sites), 2, config.hidden_size)}
    routine, strategy = ContextSharing(), ContextAggregation(Mean())
    first, steady = routine.upload(shapes, FIRST).shapes, routine.upload(shapes, TRAIN).shapes
    vectors = {n: np.zeros(shape, DTYPES[routine.vectors_dtype]) for n, shape in first.items()}
    coefficients = {name: np.zeros(shape, np.float32) for name, shape in steady.items()}
    assert Payload(vectors).num_bytes == vector_kib * 1024
    assert sum(array.size for array in coefficients.values()) == num_coefficients
    assert Payload(coefficients).num_bytes == 4 * num_coefficients
    # What a server really sends to a client that has calibrated, and to one that has not.
    strategy.vectors, strategy.coefficients = vectors["context-vectors"], coefficients["coefficients"]
    strategy.holding = {0}
    assert strategy.download(0, TRAIN).num_bytes == 4 * num_coefficients
    assert strategy.download(1, TRAIN).num_bytes == vector_kib * 1024 + 4 * num_coefficients
    (spec,) = strategy.downloads([MessageSpec(steady)], TRAIN)
    assert spec.shapes == {name: array.shape for name, array in strategy.download(0, TRAIN).arrays.items()}
