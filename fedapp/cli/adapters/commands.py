"""The words of the commands for adapters; what they do stands in a module each."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fedapp.cli.output import told_in_one_line
from fedapp.cli.parsing import add_command

_KEPT = "a kept adapter: RUN/adapters/client-0"


def _parser(name: str, commands: Any, about: str, example: str = "") -> argparse.ArgumentParser:
    epilog = f"example: {example}" if example else None
    return add_command(commands, name, about, more=" (docs/using-adapters.md).", epilog=epilog)


def _add_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest answer (default: as in the run)"
    )


def _add_export(name: str, commands: Any) -> None:
    parser = _parser(name, commands, "write a run's adapter in the format of its own library (pyreft, peft)")
    parser.add_argument("source", metavar="ADAPTER", help=_KEPT)
    parser.add_argument("target", metavar="FOLDER", help="folder to make")
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from fedapp.cli.adapters.export import export

    return told_in_one_line(lambda: export(Path(arguments.source), Path(arguments.target)))


def _add_predict(name: str, commands: Any) -> None:
    example = "fedapp predict RUN/adapters/client-0 rows.jsonl --to answers.jsonl"
    parser = _parser(name, commands, "answer the rows of a JSONL file with a run's adapter", example)
    parser.add_argument("source", metavar="ADAPTER", help=_KEPT)
    parser.add_argument("file", type=Path, metavar="FILE", help="rows: the benchmark's columns, or prompt")
    parser.add_argument("--to", type=Path, metavar="FILE", help="where answers go (default: the terminal)")
    _add_length(parser)
    parser.set_defaults(command=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from fedapp.cli.adapters.predict import predict

    source, file, to, longest = (
        Path(arguments.source),
        arguments.file,
        arguments.to,
        arguments.max_new_tokens,
    )
    return told_in_one_line(lambda: predict(source, file, sys.stdout, to, longest))


def _add_chat(name: str, commands: Any) -> None:
    parser = _parser(name, commands, "ask a run's adapter, line by line")
    parser.add_argument("source", metavar="ADAPTER", help=_KEPT)
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: greedy (the default)")
    _add_length(parser)
    parser.set_defaults(command=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    from fedapp.cli.adapters.chat import chat

    source, longest, warmth = Path(arguments.source), arguments.max_new_tokens, arguments.temperature
    return told_in_one_line(lambda: chat(source, sys.stdout, longest, warmth))


def _add_merge(name: str, commands: Any) -> None:
    about = "merge a run's LoRA or IA3 into its base: a plain folder of transformers"
    parser = _parser(name, commands, about)
    parser.add_argument("source", metavar="ADAPTER", help=_KEPT)
    parser.add_argument("target", metavar="FOLDER", help="folder to make")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16")
    parser.set_defaults(command=_merge)


def _merge(arguments: argparse.Namespace) -> int:
    from fedapp.cli.adapters.merge import merge

    source, target, dtype = Path(arguments.source), Path(arguments.target), arguments.dtype
    return told_in_one_line(lambda: merge(source, target, dtype))


def _add_push(name: str, commands: Any) -> None:
    example = "fedapp push FOLDER user/name --dry-run"
    parser = _parser(name, commands, "upload an exported or merged folder to the Hugging Face hub", example)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made by fedapp export or merge")
    parser.add_argument("repository", metavar="USER/NAME", help="made if it is not there")
    parser.add_argument("--dry-run", action="store_true", help="tell what would go up; no network needed")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(command=_push)


def _push(arguments: argparse.Namespace) -> int:
    from fedapp.cli.adapters.push import push

    folder, repository = arguments.folder, arguments.repository
    options = {"dry_run": arguments.dry_run, "private": arguments.private}
    return told_in_one_line(lambda: push(folder, repository, sys.stdout, **options))


def _add_lm_eval(name: str, commands: Any) -> None:
    about = "score a run's adapter by tasks of lm-evaluation-harness"
    parser = _parser(name, commands, about, "fedapp lm-eval RUN/adapters/client-0 --tasks piqa,arc_easy")
    parser.add_argument("source", metavar="ADAPTER", help=_KEPT)
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks")
    parser.add_argument("--include-path", type=Path, metavar="FOLDER", help="with tasks of your own")
    parser.add_argument("--limit", type=int, metavar="N", help="first rows of each task alone")
    parser.add_argument("--to", type=Path, metavar="FILE", help="results as JSON")
    parser.add_argument("--base", action="store_true", help="the base model alone, to compare with")
    _add_length(parser)
    parser.set_defaults(command=_lm_eval)


def _lm_eval(arguments: argparse.Namespace) -> int:
    from fedapp.cli.adapters.harness import evaluate

    return told_in_one_line(
        lambda: evaluate(
            Path(arguments.source),
            arguments.tasks.split(","),
            sys.stdout,
            include_path=arguments.include_path,
            limit=arguments.limit,
            to=arguments.to,
            max_new_tokens=arguments.max_new_tokens,
            base=arguments.base,
        )
    )


ADAPTER_COMMANDS = {
    "predict": _add_predict,
    "chat": _add_chat,
    "export": _add_export,
    "merge": _add_merge,
    "push": _add_push,
    "lm-eval": _add_lm_eval,
}
