"""Teach the embedded model to learn from its prompt: few-shot episodes on top of its own text.

    python scripts/pretrain_embedded_icl.py --steps 2000 --seed 0 --threads 1 --out fedapp/assets/embedded_icl

Starts from the weights of ``fedapp/assets/embedded``; new tokens (the line break, a few words) get new
rows. First come pairs alone: without these few hundred steps it only learns which words are labels, not
which label goes with which text. The text is generated while training
(``embedded_text`` and ``embedded_episodes``). The same start, seed, number of steps and number of
threads give the same weights on the same machine and torch build.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pretrain_embedded as base  # first: it puts the project on the path
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from fedapp.benchmarks.embedded.episodes import episode, pairs, vocabulary
from fedapp.benchmarks.embedded.text import documents
from fedapp.benchmarks.embedded.text import vocabulary as known_words

ROW_TOKENS = 288
MAX_POSITIONS = 512
DOCUMENT_TOKENS = 96
DOCUMENTS, PAIRS = 0.2, 0.2
"""Shares of rows with documents and with pairs after the first steps; the rest are episodes."""
DOCUMENT_WEIGHT = 0.1
"""Weight of a document's tokens in the loss; an episode's label words weigh 1, its text 0."""


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
    tokenizer: PreTrainedTokenizerFast, episode: tuple[list[tuple[str, str]], bool]
) -> tuple[list[int], list[float]]:
    """Token ids of an episode, and the weight of each in the loss: 1 for label words, else 0.

    The first of each label word can only be guessed, unless the words fit the classes and it is not
    the episode's first.
    """
    shots, fitting = episode
    texts = tokenizer([f"{prompt} {label}\n" for prompt, label in shots], add_special_tokens=False)
    ids, weights = [tokenizer.bos_token_id], [0.0]
    shown: set[str] = set()
    for (_, label), text in zip(shots, texts["input_ids"], strict=True):
        ids += text
        weights += [0.0] * len(text)
        weights[-2] = 1.0 if label in shown or (fitting and shown) else 0.0
        shown.add(label)
    return ids[:ROW_TOKENS], weights[:ROW_TOKENS]


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, texts: Iterator[str]
) -> tuple[list[int], list[float]]:
    """Token ids of some documents, and their weights."""
    ids: list[int] = []
    while len(ids) < DOCUMENT_TOKENS:
        ids += [*tokenizer(next(texts))["input_ids"], tokenizer.eos_token_id]
    ids = ids[:DOCUMENT_TOKENS]
    return ids, [DOCUMENT_WEIGHT] * len(ids)


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int, pair_steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ids and weights, [batch_size, width] each, a text per row: pairs first, then the mixture."""
    rng = random.Random(f"mixture/{seed}")
    texts = documents(seed + 1)
    for step in count():
        only_pairs = step < pair_steps
        shots = rng.randint(4, 20)  # of every row, so that rows are about as long as one another
        rows = []
        for _ in range(batch_size):
            draw = rng.random()
            if not only_pairs and draw < DOCUMENTS:
                rows.append(encode_documents(tokenizer, texts))
            else:
                kind = pairs if only_pairs or draw < DOCUMENTS + PAIRS else episode
                # A pair is a fourth of a labelled text.
                rows.append(encode_episode(tokenizer, kind(rng, shots if kind is episode else 2 * shots)))
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
        weights = torch.tensor([marks + [0.0] * (width - len(marks)) for _, marks in rows])
        yield ids, weights


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    """Train in bf16 autocast with fp32 weights; print the mean loss of label words in nats."""
    optimizers = base.build_optimizers(model, args)
    base_lrs = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    model.train()
    started, seen = time.time(), []
    rows = batches(tokenizer, args.seed, args.batch_size, args.pair_steps)
    for step, (ids, weights) in zip(range(args.steps), rows, strict=False):
        for optimizer, lr in zip(optimizers, base_lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr * base.schedule(step, args.steps)
        marks = weights[:, 1:]
        chosen = marks > 0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            states = model.model(input_ids=ids).last_hidden_state[:, :-1]
            logits = model.lm_head(states[chosen])
        losses = functional.cross_entropy(logits.float(), ids[:, 1:][chosen], reduction="none")
        (losses @ marks[chosen] / marks.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        seen.append(float(losses.detach()[marks[chosen] == 1].mean()))
        if (step + 1) % args.print_every == 0 or step + 1 == args.steps:
            mean = sum(seen) / len(seen)
            print(f"step {step + 1} label-loss {mean:.4f} seconds {time.time() - started:.0f}", flush=True)
            seen.clear()
            if not math.isfinite(mean):
                raise SystemExit("pre-training failed: the loss is not finite")
        if args.save_every and (step + 1) % args.save_every == 0:
            base.save(model, tokenizer, args.out)
            model.train()


def parse_args() -> argparse.Namespace:
    """Settings from the command line; the asset's README says which made the shipped weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pair-steps", type=int, default=450, help="steps at the start that are all pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, default=Path("fedapp/assets/embedded"))
    parser.add_argument("--out", type=Path, default=Path("fedapp/assets/embedded_icl"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32, help="texts per step")
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
