"""FedRot-LoRA: clients' factors are rotated to a common basis before they are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedapp.aggregation import Rule
from fedapp.aggregation.alignment import align
from fedapp.core.checks import require_bool, require_choice, require_number
from fedapp.core.payload import Upload
from fedapp.methods.parameter_sharing import Average

ALTERNATE = "alternate"


class RotatedAverage(Average):
    """Average the factors of LoRA after turning each client's towards those that the round started from.

    B A = (B Q^T)(Q A) for every orthogonal Q, so clients that learned the same may hold it in different
    bases, which a mean of factors mixes up. Nothing but FedIT's factors is sent. In the first round there is
    nothing to turn to.

    Source: FedRot-LoRA, https://arxiv.org/abs/2602.23638, and its code (haoran-zh/FedRot-LoRA): the objective
    that changes from round to round (A in the second), proper rotations, the softening. There each client
    turns its own factors; here the server does, which knows what all of them started from: the same mean.
    """

    def __init__(
        self,
        combine: Rule,
        factor: str = ALTERNATE,
        rotation_weight: float = 1.0,
        reflections: bool = False,
    ) -> None:
        """Take the rule that combines and how to turn.

        Args:
            combine: The rule that combines the turned uploads (``fedapp.aggregation``).
            factor: Which factor is to come closest to the reference: ``A``, ``B`` or ``alternate``, A in
                even rounds and B in odd ones.
            rotation_weight: How far to turn, a fraction in [0, 1]: 0 is FedIT.
            reflections: Whether a basis may be mirrored, too (ours).
        """
        super().__init__(combine)
        require_choice("factor", factor, ("A", "B", ALTERNATE))
        require_number("rotation_weight", rotation_weight, "[0, 1]")
        require_bool("reflections", reflections)
        self.factor, self.rotation_weight, self.reflections = factor, rotation_weight, reflections

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Turn this round's factors, then combine them."""
        factor = "BA"[server_round % 2 == 0] if self.factor == ALTERNATE else self.factor
        turned = []
        for upload in uploads:
            arrays = align(
                upload.arrays,
                self.current,
                factor,
                weight=self.rotation_weight,
                reflections=self.reflections,
            )
            turned.append(replace(upload, arrays=arrays))
        super().aggregate(server_round, turned, lost)
