"""Random models of a few thousand parameters, one per architecture, and words to feed them."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from fedapp.core.types import Example
from fedapp.models.base import Base, make_base

WORDS = [f"w{index}" for index in range(60)]
_SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
SIZES = {
    "Llama": {**_SIZE, "num_key_value_heads": 2},
    "Qwen2": {**_SIZE, "num_key_value_heads": 2},
    "Gemma": {**_SIZE, "num_key_value_heads": 2, "head_dim": 8},
    "GPT2": {**_GPT2},
    "GPTNeoX": _SIZE,
    "Bert": _SIZE,
    "Roberta": {**_SIZE, "max_position_embeddings": 70},
}
DECODERS = ("Llama", "Qwen2", "Gemma", "GPT2", "GPTNeoX")
ENCODERS = ("Bert", "Roberta")
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "<x>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def model(name: str, *, labels: int = 0, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A random causal LM, or a classifier where labels are wanted or nothing else exists."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**SIZES[name], **SPECIAL)
    if labels:
        config.num_labels = labels
    kind = "ForSequenceClassification" if labels else {"GPT2": "LMHeadModel"}.get(name, "ForCausalLM")
    made = getattr(transformers, f"{name}{kind}")(config)
    with torch.no_grad():
        for value in made.parameters():
            value.mul_(3.0)  # louder than the usual 0.02, so that edits show in the logits
    return made.to(dtype)


def base(name: str = "Llama", *, labels: tuple[str, ...] = (), dtype: torch.dtype = torch.float32) -> Base:
    head = "classification" if labels else "lm"
    return make_base(model(name, labels=len(labels), dtype=dtype), tokenizer(), head=head, labels=labels)


def examples(count: int, *, seed: int = 0, longest: int = 14, labels: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt = " ".join(rng.choice(WORDS, size=rng.integers(1, longest)))
        target = " ".join(rng.choice(WORDS, size=rng.integers(1, 3)))
        made.append(Example(prompt, target, label=int(rng.integers(labels)) if labels else None))
    return made
