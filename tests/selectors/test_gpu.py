"""Selectors on a GPU: what they hold there is what they hold on the CPU."""

import pytest
import torch

from indexer_lab.selectors import selector

from .test_properties import RECORDS, cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CONTENT = ("quest", "block_mean", "hierarchical", "sparq", "loki", "double_sparsity")
NAMES = (*CONTENT, "reuse", "index_heads")
CASES = [case for case in cases() if case[0].split(":")[0] in NAMES]


@pytest.mark.parametrize(("spelling", "name"), CASES)
def test_a_selection_holds_the_mass_that_it_holds_on_the_cpu(spelling, name):
    """Sums in another order may swap two keys of nearly equal scores, and nothing else."""
    record = RECORDS[name]
    probs = record.logits(slice(None)).softmax(-1)
    held = []
    for device in ("cpu", "cuda"):
        support = selector(spelling).fit(record.to(torch.device(device))).top(7)
        assert support.device.type == device
        picked = support.cpu().repeat_interleave(record.heads // len(support), dim=0)
        held.append(probs.gather(-1, picked.clamp(min=0)).masked_fill(picked < 0, 0).sum(-1))
    assert ((held[0] - held[1]).abs() > 1e-3).float().mean() <= 0.02
