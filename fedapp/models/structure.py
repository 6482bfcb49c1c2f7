"""What adapters need to know of a transformers model, found by its structure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the transformer blocks by structure: the longest outermost list of like modules.

    Returns:
        The list's dotted name inside the model, and the list.

    Raises:
        ValueError: If the model has no such list, or shares blocks between layers.
    """
    from torch import nn

    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)  # experts, inside a block
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1 and not inside:
            found.append((name, module))
    name, blocks = max(found, key=lambda item: len(item[1]), default=("", nn.ModuleList()))
    expected = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    if len(blocks) != expected:
        raise ValueError(
            f"{type(model).__name__} has {expected} layers but its longest block list {name!r} has "
            f"{len(blocks)}: models that share blocks or have several stacks are not supported"
        )
    return name, blocks


def hidden_size(model: Any) -> int:
    """Width of a block's output."""
    return int(model.config.get_text_config().hidden_size)


def offset_positions(model: nn.Module) -> int | None:
    """Longest input of a model whose positions are counted from behind the padding id (RoBERTa's kind).

    Returns:
        Tokens; None where no table of positions has a padding id: then the config's number holds.
    """
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("position_embeddings", "embed_positions")):
            padding = module.padding_idx
            return None if padding is None else module.num_embeddings - padding - 1
    return None


def pool_by_mean(model: Any) -> None:
    """Let a classification head read the mean of the last hidden states instead of the first token's.

    Sentence encoders (MiniLM and its kind) are trained on this mean, so a linear head on it is the
    stronger one. The mean is over the tokens that are no padding, [batch, hidden]; it takes the place
    of the encoder's pooler, which then has no part in the answer.

    Args:
        model: A sequence classifier; changed in place.

    Raises:
        ValueError: If its head does not read a pooler.
    """
    encoder = model.base_model
    if getattr(encoder, "pooler", None) is None:
        raise ValueError(
            f"pooling='mean' needs an encoder whose head reads a pooler, such as BERT; "
            f"{type(model).__name__} has none: leave it null"
        )

    def replace(_encoder: Any, _args: Any, given: dict[str, Any], output: Any) -> Any:
        states = output.last_hidden_state
        mask = given["attention_mask"].unsqueeze(-1).to(states.dtype)
        output.pooler_output = (states * mask).sum(1) / mask.sum(1)
        return output

    encoder.register_forward_hook(replace, with_kwargs=True)
