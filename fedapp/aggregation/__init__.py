"""Pure rules that combine what clients sent: means, geometric medians, all-but-me, mixing.

Means and medians answer with a convex combination of the uploads, so each comes in two steps: find
the coefficients ``[num_outputs, num_uploads]``, then take one matrix product with the uploads,
block by block. Sums run in fp64 and results are fp32 whatever float type came in (fp16, bf16 of
``ml_dtypes``, fp32, fp64). A sum depends on the order of its terms in the last bit: callers sort
by client (``all_but_me`` does it itself).
"""

from fedapp.aggregation.checks import UploadError, check_compatible, check_finite
from fedapp.aggregation.clipping import CenteredClip
from fedapp.aggregation.combination import LinearCombination
from fedapp.aggregation.rule import Rule, leave_one_out
from fedapp.aggregation.rules import (
    GeometricMedian,
    LinearRule,
    Mean,
    all_but_me,
    geometric_median,
    interpolate,
    weighted_mean,
)
from fedapp.aggregation.subspace import joint_subspace

__all__ = [
    "CenteredClip",
    "GeometricMedian",
    "LinearCombination",
    "LinearRule",
    "Mean",
    "Rule",
    "UploadError",
    "all_but_me",
    "check_compatible",
    "check_finite",
    "geometric_median",
    "interpolate",
    "joint_subspace",
    "leave_one_out",
    "weighted_mean",
]
