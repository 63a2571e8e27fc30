"""row_topk against a stable sort."""

import pytest
import torch

from indexer_kernels import row_select
from indexer_kernels import row_topk as module
from indexer_kernels.operands import Tally
from indexer_kernels.row_topk import row_topk
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
def test_steps_of_a_row_change_nothing(name, device, monkeypatch):
    """Candidates gathered a few at a time are those gathered at once, and in the same order."""
    scores = rows(name, 1333).to(device)
    whole = row_topk(scores, 6, ordered=False, backend="triton")
    monkeypatch.setattr(row_select, "GATHERED", 32)
    monkeypatch.setattr(row_select, "REST", 16)
    parts = row_topk(scores, 6, ordered=False, backend="triton")
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("name", ["mixed", "tied", "infinite"])
def test_rows_of_more_groups_than_stay_in_registers(name, device, monkeypatch):
    monkeypatch.setattr("indexer_kernels.bound.RESIDENT", 16)
    monkeypatch.setattr(row_select, "REST", 16)
    scores = rows(name, 1333).to(device)
    values, positions = row_topk(scores, 30, backend="triton")
    expected, order = stable(scores, 30)
    assert torch.equal(values, expected)
    assert torch.equal(positions, order)


def test_candidates_beyond_their_room_are_repaired_and_counted(device, monkeypatch):
    tally = Tally()
    monkeypatch.setattr(module, "candidate_room", lambda keys, k: 20)
    scores = torch.cat([rows("constant", 333), rows("mixed", 333)]).to(device)
    values, positions = row_topk(scores, 3, backend="triton", tally=tally)
    expected, order = stable(scores, 3)
    assert (tally.rows, tally.repaired) == (5, 2)
    assert torch.equal(values, expected)
    assert torch.equal(positions, order)


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
