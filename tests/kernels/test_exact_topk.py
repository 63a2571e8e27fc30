"""exact_topk: kernels against the reference, and both against sets known by hand."""

import pytest
import torch
from torch import Tensor

import indexer_kernels.exact_topk as module
from indexer_kernels import selection
from indexer_kernels.exact_topk import (
    Tally,
    candidates,
    capacity,
    chunks,
    exact_topk,
    exact_topk_reference,
    group_size,
    score,
)
from indexer_kernels.operands import WORKSPACE, as_rows
from indexer_kernels.selection import Candidates
from indexer_kernels.topk import KernelError, topk

INF = float("inf")


def operands(shape, dtype=torch.bfloat16, seed=0, device="cpu"):
    """queries and keys for a shape (head, kv_head, query, key, dim)"""
    head, kv_head, query, key, dim = shape
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(head, query, dim, generator=generator)
    keys = torch.randn(kv_head, key, dim, generator=generator)
    return queries.to(device, dtype), keys.to(device, dtype)


def one_hot(logits: Tensor):
    """Float32 operands whose logits are exactly these [query, key] numbers."""
    queries = torch.eye(len(logits), 16)
    keys = torch.zeros(logits.shape[1], 16)
    keys[:, : len(logits)] = logits.T
    return queries[None], keys[None]


def check(queries, keys, k, tally=None, **options):
    """The kernels' set is the reference's but for keys within rounding of the boundary."""
    values, positions = exact_topk(queries, keys, k, backend="triton", tally=tally, **options)
    expected, at = exact_topk_reference(queries, keys, k, **options)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert ((positions < 0) == (at < 0)).all()
    everything = exact_topk_reference(queries, keys, keys.shape[1], **options)
    logits = torch.full((*everything[0].shape[:2], keys.shape[1] + 1), -INF, device=keys.device)
    logits.scatter_(-1, everything[1].where(everything[1] >= 0, keys.shape[1]), everything[0])
    found = logits.gather(-1, positions.where(positions >= 0, keys.shape[1]))
    torch.testing.assert_close(found, values.where(positions >= 0, found), rtol=1e-5, atol=1e-5)
    ordered = positions.sort(-1).values
    assert not ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()
    return values, positions


CASES = {
    "few keys": ((2, 1, 3, 37, 16), 5, {}),
    "odd length": ((1, 1, 3, 301, 24), 7, {}),
    "gqa 4:2": ((4, 2, 2, 259, 16), 6, {}),
    "mqa 5:1, causal": ((5, 1, 2, 257, 16), 4, {"positions": [100, 256]}),
    "dim 192": ((1, 1, 2, 300, 192), 6, {"scale": 0.07}),
    "one key taken": ((1, 1, 3, 290, 16), 1, {}),
    "every key taken": ((1, 1, 2, 140, 16), 140, {}),
    "more than there are": ((1, 1, 2, 50, 16), 64, {}),
    "causal from the first": ((1, 1, 4, 280, 16), 6, {"positions": [0, 3, 127, 279]}),
    "window": ((1, 1, 3, 400, 16), 5, {"positions": [2, 200, 399], "window": 100}),
    "negative scale": ((1, 1, 2, 270, 16), 5, {"scale": -0.5}),
    "over two row blocks": ((1, 1, 17, 130, 16), 2, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, device):
    shape, k, options = CASES[case]
    if "positions" in options:
        options = {**options, "positions": torch.tensor(options["positions"], device=device)}
    check(*operands(shape, device=device), k, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_against_float64(dtype, device):
    queries, keys = operands((2, 1, 3, 270, 40), dtype, device=device)
    values, positions = exact_topk(queries, keys, 8, scale=0.2, backend="triton")
    exact = queries.double() @ keys.double().mT * 0.2
    error = 40 * 2.0**-23 * 0.2 * queries.double().norm(dim=-1) * keys.double().norm(dim=-1).max()
    kth = exact.topk(8).values[..., -1]
    assert (exact.gather(-1, positions) >= (kth - 2 * error)[..., None]).all()
    assert (values - exact.gather(-1, positions)).abs().amax() <= error.max()


ROWS = torch.arange(300.0)
SHAPES = {
    "constant": torch.zeros(300),
    "increasing": ROWS,
    "decreasing": -ROWS,
    "clustered": torch.where((ROWS >= 128) & (ROWS < 136), 100 - ROWS * 0.25, -ROWS),
    "boundary duplicated": torch.where(ROWS % 7 == 0, 2.0, torch.where(ROWS == 9, 3.0, 1.0)),
    "just under the bound": torch.where(ROWS % 60 == 0, 1.0, 1 - 2.0**-23),
    "some +inf": torch.where(ROWS % 90 == 1, INF, ROWS % 11),
    "mostly -inf": torch.where(ROWS % 100 == 5, 1.0, -INF),
    "all -inf": torch.full((300,), -INF),
    "signed zeros": torch.where(ROWS % 2 == 0, 0.0, -0.0),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("k", [1, 6])
def test_hard_rows_by_hand(name, k, device):
    """Logits set one by one: value and position must equal a stable descending sort."""
    logits = SHAPES[name]
    # queries [1, 1] and keys [key, 1] in dim 1: one product, no sum that could meet 0 * inf
    queries = torch.ones(1, 1, 1, device=device)
    keys = logits[None, :, None].to(device)
    values, positions = exact_topk(queries, keys, k, backend="triton")
    expected, order = logits.to(device).sort(descending=True, stable=True)
    expected, order = expected[:k], order[:k].masked_fill(expected[:k] == -INF, -1)
    assert torch.equal(values[0, 0], expected)
    assert positions[0, 0].tolist() == order.tolist()


def test_ties_beyond_the_capacity_are_repaired_and_counted(device):
    tally = Tally()
    queries, keys = one_hot(torch.stack([torch.zeros(300), ROWS]))
    values, positions = exact_topk(
        queries.to(device), keys.to(device), 4, backend="triton", tally=tally
    )
    assert positions[0].tolist() == [[0, 1, 2, 3], [299, 298, 297, 296]]
    assert values[0, 0].tolist() == [0.0] * 4
    assert (tally.rows, tally.repaired) == (2, 1)


def test_a_row_without_its_certificate_is_not_trusted():
    """In turn: proven, fewer than k above a bound, all of a short row, more than there is room."""
    counts = torch.tensor([5, 3, 3, 9], dtype=torch.int32)
    bounds = torch.tensor([1.0, 1.0, -INF, 1.0])
    found = Candidates(torch.empty(4, 8, dtype=torch.int64), counts, bounds)
    assert found.failed(4).tolist() == [False, True, False, True]


def test_well_mixed_rows_need_no_repair(device):
    tally = Tally()
    check(*operands((1, 1, 4, 300, 16), device=device), 5, tally)
    assert (tally.rows, tally.repaired) == (4, 0)


def test_candidates_are_few_on_mixed_data_and_bounded_on_any(device):
    queries, keys = operands((1, 1, 4, 512, 16), device=device)
    found = candidates(as_rows(queries, keys, 1.0, None, None), 8)
    assert group_size(512, 8) == 16
    assert (found.counts >= 8).all()
    assert (found.counts <= 16 * 7 + 1).all()


def test_scratch_is_never_read_before_it_is_written(device, monkeypatch):
    """Every buffer starts as garbage: NaN, or the worst integer."""

    def dirty(*shape, dtype=torch.float32, device=None):
        if dtype == torch.bool:
            return torch.ones(shape, dtype=dtype, device=device)
        worst = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
        return torch.full(shape, worst, dtype=dtype, device=device)

    queries, keys = operands((2, 1, 3, 300, 16), device=device)
    positions = torch.tensor([5, 130, 299], device=device)
    expected = exact_topk_reference(queries, keys, 6, positions=positions)
    monkeypatch.setattr(torch, "empty", dirty)
    values, at = exact_topk(queries, keys, 6, positions=positions, backend="triton")
    torch.testing.assert_close(values, expected[0])
    assert torch.equal(at, expected[1])


def test_small_workspace_changes_nothing(device):
    queries, keys = operands((2, 2, 18, 130, 16), device=device)
    whole = exact_topk(queries, keys, 3, backend="triton")
    parts = exact_topk(queries, keys, 3, backend="triton", workspace=1)
    torch.testing.assert_close(whole[0], parts[0])  # a chunk may take another tile shape
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("window", [None, 70])
def test_a_gate_in_chunks_of_keys_changes_nothing(window, device, monkeypatch):
    """Rows whose candidates lie in the first chunk alone, in the last alone, and in all."""
    queries, keys = operands((2, 1, 3, 700, 16), device=device)
    positions = torch.tensor([100, 430, 699], device=device)
    expected = exact_topk_reference(queries, keys, 6, positions=positions, window=window)
    monkeypatch.setattr(module, "KEY_CHUNK", 128)
    values, at = exact_topk(
        queries, keys, 6, positions=positions, window=window, backend="triton", workspace=1
    )
    torch.testing.assert_close(values, expected[0])
    assert torch.equal(at, expected[1])


def test_room_for_candidates_follows_the_workspace():
    assert capacity(1, 131072, 100, 1 << 30) == 1600  # every exceedance and every tie
    assert capacity(8192, 131072, 2048, 800 << 20) == 4 * 2048
    assert capacity(2, 3000, 100, 1) == 4 * 100


def test_few_rows_search_as_many_do(device, monkeypatch):
    """Three thresholds a step or one: the same answer."""
    queries, keys = operands((1, 1, 4, 600, 16), device=device)
    three = exact_topk(queries, keys, 9, backend="triton")
    monkeypatch.setattr(selection, "FEW_ROWS", 0)
    one = exact_topk(queries, keys, 9, backend="triton")
    assert torch.equal(three[0], one[0])
    assert torch.equal(three[1], one[1])


def test_unordered_is_the_same_set_and_repeats(device):
    queries, keys = operands((1, 1, 3, 300, 16), device=device)
    first = exact_topk(queries, keys, 6, ordered=False, backend="triton")
    again = exact_topk(queries, keys, 6, ordered=False, backend="triton")
    sorted_set = exact_topk(queries, keys, 6, backend="triton")[1].sort().values
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[1].sort().values, sorted_set)


def test_keys_may_be_strided(device):
    queries, keys = operands((2, 2, 2, 140, 16), device=device)
    strided = keys.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(
        exact_topk(queries, strided, 3, backend="triton")[1],
        exact_topk(queries, keys, 3, backend="triton")[1],
    )


def test_nan_is_refused_where_visible_and_only_there(device):
    queries, keys = operands((1, 1, 2, 140, 16), device=device)
    keys[0, 100, 3] = float("nan")
    for backend in ("triton", "torch"):
        with pytest.raises(KernelError, match="NaN"):
            exact_topk(queries, keys, 3, backend=backend)
    hidden = torch.tensor([50, 99], device=device)
    check(queries, keys, 3, positions=hidden)


BROKEN = {
    "k = 0": {"k": 0},
    "k = 8193": {"k": 8193},
    "window = 0": {"window": 0, "positions": torch.tensor([1, 2])},
    "needs positions": {"window": 3},
    r"expected int64 \[2\]": {"positions": torch.tensor([1])},
    "one dim": {"keys": torch.zeros(1, 5, 8)},
    "evenly": {"keys": torch.zeros(2, 5, 4)},
    "expected one of": {"keys": torch.zeros(1, 5, 4, dtype=torch.float64)},
    "empty": {"keys": torch.zeros(1, 0, 4)},
    "backend = 'cuda'": {"backend": "cuda"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_input_that_cannot_be_answered_is_named(message):
    arguments = {"queries": torch.zeros(3, 2, 4), "keys": torch.zeros(1, 5, 4), "k": 2}
    with pytest.raises(KernelError, match=message):
        exact_topk(**{**arguments, **BROKEN[message]})


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "k"),
    [
        ((1, 1, 300, 33333, 128), 2048),
        ((8, 2, 129, 20001, 128), 512),
        ((1, 1, 64, 131072, 128), 2048),
        ((2, 1, 33, 40000, 576), 2048),
        ((2, 2, 130, 40001, 192), 1000),
        ((1, 1, 3, 1 << 20, 128), 8192),
        ((1, 1, 1, 131072, 128), 2048),
        ((4, 4, 65, 5000, 64), 4999),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_large_shapes(shape, k, causal):
    queries, keys = operands(shape, device="cuda")
    keys_count, count = shape[3], shape[2]
    positions = torch.arange(keys_count - count, keys_count, device="cuda") if causal else None
    tally = Tally()
    values, at = exact_topk(queries, keys, k, scale=0.1, positions=positions, tally=tally)
    expected, _ = exact_topk_reference(queries, keys, k, scale=0.1, positions=positions)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-3)
    assert tally.repaired == 0
    # the set is that of the kernel's own stored logits, bit for bit: the same tile shape needs
    # as many rows, so this scores the first chunk that exact_topk made
    rows = as_rows(queries, keys, 0.1, positions, None)
    batches, lines, part = next(chunks(rows, k, WORKSPACE))
    logits = torch.empty(*part.shape[:3], device="cuda")
    score(part, "all", scores=logits)
    own = topk(logits, k)[1]
    assert torch.equal(own, at.view(shape[1], -1, k)[batches, lines])
    again = exact_topk(queries, keys, k, scale=0.1, positions=positions)[1]
    assert torch.equal(at, again)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_hard_rows_at_length(name):
    logits = SHAPES[name].repeat(400)[:100001]
    keys = logits[None, :, None].cuda()
    values, positions = exact_topk(torch.ones(1, 3, 1, device="cuda"), keys, 2000)
    expected, order = logits.cuda().sort(descending=True, stable=True)
    order = order[:2000].masked_fill(expected[:2000] == -INF, -1)
    assert torch.equal(values, expected[:2000].expand(1, 3, -1))
    assert torch.equal(positions, order.expand(1, 3, -1))
