"""row_topk against a stable sort."""

import pytest
import torch

from indexer_kernels import selection
from indexer_kernels.exact_topk import Tally
from indexer_kernels.row_topk import row_topk, stored_candidates
from indexer_kernels.topk import KernelError


def stable(scores, k):
    values, order = scores.sort(dim=-1, descending=True, stable=True)
    return values[:, :k], order[:, :k].masked_fill(values[:, :k] == -float("inf"), -1)


def rows(name, keys):
    torch.manual_seed(0)
    ramp = torch.arange(keys).float()
    return {
        "mixed": torch.randn(3, keys),
        "tied": torch.randint(0, 4, (3, keys)).float(),
        "constant": torch.ones(2, keys),
        "ramps": torch.stack([ramp, -ramp]),
        "infinite": torch.where(torch.rand(2, keys) < 0.02, float("inf"), -float("inf")),
    }[name]


@pytest.mark.parametrize("name", ["mixed", "tied", "constant", "ramps", "infinite"])
@pytest.mark.parametrize("k", [1, 6, 200])
def test_equals_a_stable_sort(name, k, device):
    scores = rows(name, 333).to(device)
    values, positions = row_topk(scores, k, backend="triton")
    expected, order = stable(scores, k)
    assert torch.equal(values, expected)
    assert torch.equal(positions, order)


@pytest.mark.parametrize("name", ["mixed", "tied", "ramps"])
def test_segments_of_a_row_change_nothing(name, device, monkeypatch):
    """Segments gather their candidates side by side; together they are in position order."""
    scores = rows(name, 333).to(device)
    whole = row_topk(scores, 6, ordered=False, backend="triton")
    monkeypatch.setattr(selection, "SEGMENT", 32)
    parts = row_topk(scores, 6, ordered=False, backend="triton")
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_candidates_are_few_on_mixed_rows(device):
    """The bound uses the maximum of each group: about 1.15 k keys reach it, not 16 k."""
    found, _ = stored_candidates(rows("mixed", 512).to(device), 8)
    assert (found.counts >= 8).all()
    assert (found.counts <= 24).all()


def test_repairs_are_counted(device):
    tally = Tally()
    row_topk(rows("constant", 333).to(device), 3, backend="triton", tally=tally)
    assert (tally.rows, tally.repaired) == (2, 2)


def test_nan_is_refused(device):
    scores = torch.zeros(2, 300, device=device)
    scores[1, 299] = float("nan")
    for k in (2, 250):
        with pytest.raises(KernelError, match="NaN"):
            row_topk(scores, k, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mixed", "tied", "constant", "ramps", "infinite"])
@pytest.mark.parametrize(("keys", "k"), [(131072, 2048), (99999, 8192), (1 << 20, 1), (9000, 4000)])
def test_long_rows(name, keys, k):
    scores = rows(name, keys).cuda()
    values, positions = row_topk(scores, k)
    expected, order = stable(scores, k)
    assert torch.equal(values, expected)
    assert torch.equal(positions, order)
