"""A run's base model before the run: its files, and one step of training on two rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedapp.client.workplace import ClientSetup, Workplace
from fedapp.config.build import ConfigError, about, place
from fedapp.config.composed import Composed
from fedapp.core.errors import one_line
from fedapp.core.model import AdaptedModel, ContextModel, SubspaceModel
from fedapp.core.types import ClientFailure, Example


def look_at_files(config: Composed, labels: Sequence[str]) -> list[str]:
    """Look at all of a client's base model but its weights.

    Args:
        config: As it holds for the client.
        labels: The benchmark's label names.

    Returns:
        In one line each what to know of it; nothing for a base that is no transformers model.

    Raises:
        ConfigError: If a file is damaged, or the model is not supported or does not fit its tokenizer.
        ValueError: If its positions leave no room for a prompt.
    """
    node, train = config["model"], config["train"]
    if "head" not in node:
        return []
    from fedapp.models.outline import open_outline
    from fedapp.training.tokens import Encoder

    with place("model", node):
        base, notes = open_outline(
            node["path"], head=node["head"], labels=labels, revision=node.get("revision")
        )
    room = Encoder(base, train["max_length"], train["max_new_tokens"]).max_length
    if room < train["max_length"]:
        short = (
            f"train.max_length={train['max_length']} is more than model.path={node['path']!r} can read: "
            f"its {room} tokens hold"
        )
        return [*notes, short]
    return list(notes)


def try_one_step(config: Composed, setup: ClientSetup, clients: Sequence[int]) -> None:
    """Load a base model, attach the adapter, train one step on two long rows, and check that it can answer.

    Args:
        config: As it holds for these clients.
        setup: Of any client of the run.
        clients: Whose answers are to be tried.

    Raises:
        ConfigError: If a setting cannot be used, or the step fails.
        ClientFailure, ValueError: As ``Workplace``.
    """
    ClientSetup(config, setup)  # its own settings of training are checked as they stand
    step = {**config["train"], "num_epochs": 1, "max_steps": 1}
    trial = Workplace(Composed({**config, "train": step}, config.run), setup)
    try:
        expected = about(config["model"], "fingerprint")
        if expected and expected != trial.base.fingerprint:
            raise ConfigError(
                f"model.about.fingerprint={expected!r} belongs to another model than "
                f"model.path={config['model'].get('path')!r} ({trial.base.fingerprint!r}): take "
                "model=local with this path, or set it to null"
            )
        rows = _longest(setup.data(0).train)
        if rows:
            _step(trial.model, rows)
        for client_id in clients:
            trial.check_answers(client_id)
    except (ClientFailure, ValueError):
        raise
    except Exception as error:  # what a model's own code raises is of any kind
        raise ConfigError(
            f"model.path={config['model'].get('path')!r} fails in one step of training on two rows: "
            f"{one_line(error)}"
        ) from None
    finally:
        trial.model.reset()
        trial.model.detach()


def _step(model: AdaptedModel, rows: Sequence[Example]) -> None:
    """One pass, and where the method has not to send anything before it, one step of training."""
    rng = np.random.default_rng(0)
    if isinstance(model, ContextModel):
        model.encode(rows)
    elif not (isinstance(model, SubspaceModel) and model.estimate(rows, rng)):
        model.train(rows, rng)


def _longest(rows: Sequence[Example], count: int = 2) -> list[Example]:
    return sorted(rows, key=lambda row: len(row.prompt), reverse=True)[:count]
