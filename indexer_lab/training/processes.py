"""What several training processes must agree on so that they give what one would.

Each process takes its share of the sequences and gradients are averaged over processes, so a loss
that is a mean over tokens has to be divided by the tokens of a mean process, not by its own.
"""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient; itself where there is one."""
    if PartialState().num_processes == 1:
        return value.detach()
    mean: Tensor = reduce(value.detach().clone(), "mean")
    return mean


def any_process(flag: bool) -> bool:
    """Whether any process says yes: all get the same answer, so that none goes on alone."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    return bool(mean_over_processes(torch.tensor(float(flag), device=state.device)) > 0)
