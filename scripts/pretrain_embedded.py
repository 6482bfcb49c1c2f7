"""Pre-train the embedded model from nothing and write it where the project expects it.

    python scripts/pretrain_embedded.py --steps 2400 --seed 0 --threads 1 --out fedapp/assets/embedded

The text is generated while training (``fedapp.benchmarks.embedded.text``). The same seed, number of
steps and number of threads give the same weights on the same machine and torch build.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch.optim import AdamW, Muon, Optimizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from fedapp.benchmarks.embedded.text import documents, vocabulary

ROW_TOKENS = 64
"""Tokens in a training row; whole documents are packed into it."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or number, lower case; a text starts with <bos>."""
    words = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words["<bos>"])]
    )
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **names)


def build_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> LlamaForCausalLM:
    """A randomly initialised Llama of the asked width and depth."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=args.width * 8 // 3 // 32 * 32,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.02,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.3)  # apart from the start: copying needs it
    return model


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield token ids [batch_size, ROW_TOKENS]: whole documents per row, the rest padding."""
    texts = documents(seed)
    pending: list[int] = []
    while True:
        rows: list[list[int]] = []
        while len(rows) < batch_size:
            row = pending
            for text in texts:
                pending = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
                if len(row) + len(pending) > ROW_TOKENS:
                    break
                row = row + pending
            rows.append(row[:ROW_TOKENS] + [tokenizer.pad_token_id] * (ROW_TOKENS - len(row)))
        yield torch.tensor(rows)


def build_optimizers(model: PreTrainedModel, args: argparse.Namespace) -> list[Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""
    inside = re.compile(r"\.(layers|h)\.\d")  # Llama's and GPT-2's names
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and inside.search(name)]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or not inside.search(name)]
    muon = Muon(matrices, lr=args.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, AdamW(others, lr=args.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)]


def schedule(step: int, steps: int) -> float:
    """Factor on the step size: short rise, then a cosine down to 2 %."""
    warmup = max(1, min(100, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    """Train in bf16 autocast with fp32 weights; print the loss in nats per token."""
    optimizers = build_optimizers(model, args)
    base_lrs = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    model.train()
    started, running = time.time(), []
    for step, ids in zip(range(args.steps), batches(tokenizer, args.seed, args.batch_size), strict=False):
        for optimizer, lr in zip(optimizers, base_lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr * schedule(step, args.steps)
        labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        running.append(loss.item())
        if (step + 1) % args.print_every == 0 or step + 1 == args.steps:
            mean = sum(running) / len(running)
            print(f"step {step + 1} loss {mean:.4f} seconds {time.time() - started:.0f}", flush=True)
            running.clear()
            if not math.isfinite(mean):
                raise SystemExit("pre-training failed: the loss is not finite")
        if args.save_every and (step + 1) % args.save_every == 0:
            save(model, tokenizer, args.out)
            model.train()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write beside the target first, then move file by file: a broken run leaves no half model."""
    staging = out.parent / f".{out.name}.{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    model.eval().save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(staging.iterdir()):
        file.chmod(0o644)
        os.replace(file, out / file.name)
    staging.rmdir()


def parse_args() -> argparse.Namespace:
    """Settings from the command line; the defaults made the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fedapp/assets/embedded"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32, help="rows of 64 tokens per step")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adamw-lr", type=float, default=4e-3)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--save-every", type=int, default=0, help="also save during training; 0: at the end only"
    )
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
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    train(model, tokenizer, args)
    save(model, tokenizer, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
