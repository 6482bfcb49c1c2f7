"""Teach the embedded model to learn from its prompt: few-shot episodes on top of its own text.

    python scripts/pretrain_embedded_icl.py --steps 1300 --seed 0 --threads 1 --out fedapp/assets/embedded_icl

Starts from the weights of ``fedapp/assets/embedded``; new tokens (the line break, a few words) get new
rows. A second pass starts from the first one's folder. The text is generated while training
(``embedded_text`` and ``embedded_episodes``). The same start, seed, number of steps and number of
threads give the same weights on the same machine and torch build.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pretrain_embedded as base  # first: it puts the project on the path
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from fedapp.benchmarks.embedded_episodes import episodes, vocabulary
from fedapp.benchmarks.embedded_text import documents
from fedapp.benchmarks.embedded_text import vocabulary as known_words

ROW_TOKENS = 256
MAX_POSITIONS = 512
EPISODES = 0.6
"""Share of episodes among the texts; they are about ten times as long as documents."""
TEXT_WEIGHT = 0.05
"""Weight of an episode's other tokens in the loss; its label words weigh 1, as documents do."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, number, run of signs or line break; lower case; a text starts with <bos>."""
    words = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+|\n"), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words["<bos>"])]
    )
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_POSITIONS, **names)


def build_model(tokenizer: PreTrainedTokenizerFast, start: Path) -> LlamaForCausalLM:
    """The start's model with rows for the new tokens and room for longer prompts."""
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    old = model.config.vocab_size
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.nn.init.normal_(model.model.embed_tokens.weight.data[old:], std=0.3)
    torch.nn.init.normal_(model.lm_head.weight.data[old:], std=0.02)
    model.config.max_position_embeddings = MAX_POSITIONS
    # The words of embedded keep their vectors: what is learnt about some label words then holds for all.
    new_rows = (torch.arange(len(tokenizer)) >= len(known_words())).float().unsqueeze(1)
    for matrix in (model.model.embed_tokens.weight, model.lm_head.weight):
        matrix.register_hook(lambda gradient: gradient * new_rows)
    return model


def encode_episode(
    tokenizer: PreTrainedTokenizerFast, episode: list[tuple[str, str]], fitting: bool
) -> tuple[list[int], list[float]]:
    """Token ids of an episode, and the weight of each in the loss.

    The first of each label word can only be guessed, unless the words fit the classes and it is not
    the episode's first.
    """
    ids, weights = [tokenizer.bos_token_id], [TEXT_WEIGHT]
    shown: set[str] = set()
    for prompt, label in episode:
        text = tokenizer(f"{prompt} {label}\n", add_special_tokens=False)["input_ids"]
        ids += text
        weights += [TEXT_WEIGHT] * len(text)
        weights[-2] = 1.0 if label in shown or (fitting and shown) else TEXT_WEIGHT
        shown.add(label)
    return ids, weights


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ids and weights, [batch_size, ROW_TOKENS] each; a row starts a text and cuts its last."""
    rng = random.Random(f"mixture/{seed}")
    texts, shots = documents(seed + 1), episodes(seed)
    while True:
        rows: list[list[int]] = []
        marks: list[list[float]] = []
        while len(rows) < batch_size:
            row: list[int] = []
            mark: list[float] = []
            while len(row) < ROW_TOKENS:
                if rng.random() < EPISODES:
                    ids, weights = encode_episode(tokenizer, *next(shots))
                else:
                    ids = [*tokenizer(next(texts))["input_ids"], tokenizer.eos_token_id]
                    weights = [1.0] * len(ids)
                row, mark = row + ids, mark + weights
            rows.append(row[:ROW_TOKENS])
            marks.append(mark[:ROW_TOKENS])
        yield torch.tensor(rows), torch.tensor(marks)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    """Train in bf16 autocast with fp32 weights; print the weighted loss and that of episodes' labels."""
    optimizers = base.build_optimizers(model, args)
    base_lrs = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    model.train()
    started, seen = time.time(), []
    line = tokenizer.convert_tokens_to_ids("\n")
    rows = batches(tokenizer, args.seed, args.batch_size)
    for step, (ids, weights) in zip(range(args.steps), rows, strict=False):
        for optimizer, lr in zip(optimizers, base_lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr * base.schedule(step, args.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            logits = model(input_ids=ids).logits[:, :-1]
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
        )
        marks = weights[:, 1:].flatten()
        loss = (losses * marks).sum() / marks.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        seen.append((loss.item(), label_loss(losses.detach(), weights, ids, line)))
        if (step + 1) % args.print_every == 0 or step + 1 == args.steps:
            both = [sum(values) / len(seen) for values in zip(*seen, strict=True)]
            said = f"step {step + 1} loss {both[0]:.4f} label-loss {both[1]:.4f}"
            print(f"{said} seconds {time.time() - started:.0f}", flush=True)
            seen.clear()
            if not math.isfinite(both[0]):
                raise SystemExit("pre-training failed: the loss is not finite")
        if args.save_every and (step + 1) % args.save_every == 0:
            base.save(model, tokenizer, args.out)
            model.train()


def label_loss(losses: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, line: int) -> float:
    """Mean loss in nats of the label words that weigh 1; a line break follows them."""
    found = (weights[:, 1:-1] == 1.0) & (ids[:, 2:] == line)
    chosen = losses.view(len(ids), -1)[:, :-1][found]
    return float(chosen.mean()) if len(chosen) else math.nan


def parse_args() -> argparse.Namespace:
    """Settings from the command line; the asset's README says which made the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, default=Path("fedapp/assets/embedded"))
    parser.add_argument("--out", type=Path, default=Path("fedapp/assets/embedded_icl"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4, help=f"rows of {ROW_TOKENS} tokens per step")
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adamw-lr", type=float, default=3e-3)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save-every", type=int, default=0, help="also save during training; 0: never")
    parser.add_argument("--print-every", type=int, default=100)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"--steps {args.steps} must be at least 1")
    return args


def main() -> None:
    """Load, train, save."""
    args = parse_args()
    disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args.start)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    train(model, tokenizer, args)
    base.save(model, tokenizer, args.out)
    print(f"written: {args.out}", flush=True)


if __name__ == "__main__":
    main()
