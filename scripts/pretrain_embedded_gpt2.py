"""Pre-train a second embedded model of another family: GPT-2's blocks, positions and byte-level BPE.

    python scripts/pretrain_embedded_gpt2.py --steps 2400 --seed 0 --out fedapp/assets/embedded_gpt2

Text, optimisers and schedule are those of ``pretrain_embedded``; the tokenizer is trained on the same
text. The same seed, number of steps and number of threads give the same weights on the same machine
and torch build.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import pretrain_embedded as base  # first: it puts the project on the path
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from fedapp.benchmarks.embedded.text import documents

END, PAD = "<|endoftext|>", "<|pad|>"
TOKENIZER_DOCUMENTS = 20_000


def build_tokenizer(size: int, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on lower-case text; <|endoftext|> starts and ends a text, as in GPT-2."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents(seed), TOKENIZER_DOCUMENTS), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=256, bos_token=END, eos_token=END, pad_token=PAD
    )


def build_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> GPT2LMHeadModel:
    """A randomly initialised GPT-2 of the asked width and depth, without dropout."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.3)  # as in pretrain_embedded
    torch.nn.init.normal_(model.transformer.wpe.weight, std=0.1)
    return model


def parse_args() -> argparse.Namespace:
    """Settings from the command line; the defaults made the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fedapp/assets/embedded_gpt2"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of 64 tokens per step")
    parser.add_argument("--vocabulary", type=int, default=1200, help="tokens of the tokenizer")
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adamw-lr", type=float, default=4e-3)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save-every", type=int, default=0, help="also save during training; 0: never")
    parser.add_argument("--print-every", type=int, default=100)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps {args.steps} must be at least 1")
    return args


def main() -> None:
    """Build, train, save."""
    args = parse_args()
    disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(args.vocabulary, args.seed)
    model = build_model(tokenizer, args)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    base.train(model, tokenizer, args)
    base.save(model, tokenizer, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
