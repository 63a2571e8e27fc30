"""exact_topk: kernels against the reference, and both against sets known by hand."""

import pytest
import torch
from torch import Tensor

from indexer_kernels import bound, deciding
from indexer_kernels.backend import power_of_two
from indexer_kernels.deciding import DESIGNS, answer, design_for
from indexer_kernels.exact_topk import (
    Tally,
    exact_support,
    exact_topk,
    exact_topk_reference,
    rows_topk,
)
from indexer_kernels.harvest import BAND_ROOM, harvest
from indexer_kernels.kth_logit import kth_logit
from indexer_kernels.operands import as_rows, visible
from indexer_kernels.row_topk import largest_first
from indexer_kernels.sample import expected_candidates, sampled_bounds, sampled_positions
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


def summed(queries, keys, scale=1.0, positions=None, window=None):
    """float32 logits [head, query, key] as exact_topk defines them: products added as a tree of
    neighbours, then scaled."""
    head, query, dim = queries.shape
    count = keys.shape[1]
    wide = keys.float().repeat_interleave(head // len(keys), 0)
    padded = power_of_two(dim, 16)
    lines = []
    for row in range(query):  # a row at a time: [head, key, dim] products
        tree = torch.nn.functional.pad(queries[:, row, None].float() * wide, (0, padded - dim))
        while tree.shape[-1] > 1:
            tree = tree[..., 0::2] + tree[..., 1::2]
        lines.append(tree[..., 0] * scale)
    logits = torch.stack(lines, 1)
    if positions is None:
        return logits
    return logits.masked_fill(~visible(positions, window, count), -INF)


def by_design(design, queries, keys, k, tally=None, **options):
    """exact_topk of one design, largest first"""
    rows = as_rows(queries, keys, options.get("scale", 1.0), options.get("positions"),
                   options.get("window"))  # fmt: skip
    values, chosen = rows_topk(rows, k, tally=tally, design=design)
    values, chosen = largest_first(values.view(-1, k), chosen.view(-1, k))
    shape = (*queries.shape[:2], k)
    return values.view(shape), chosen.view(shape)


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


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("design", ["stored", "harvested", "certified"])
def test_hard_rows_by_hand(k, design, device):
    """Logits set one by one: value and position must equal a stable descending sort."""
    # a head a shape, in dim 1: one product, no sum that could meet 0 * inf
    queries = torch.ones(len(SHAPES), 1, 1, device=device)
    keys = torch.stack(list(SHAPES.values()))[..., None].to(device)
    values, positions = by_design(design, queries, keys, k)
    for head, (name, logits) in enumerate(SHAPES.items()):
        expected, order = logits.to(device).sort(descending=True, stable=True)
        expected, order = expected[:k], order[:k].masked_fill(expected[:k] == -INF, -1)
        assert torch.equal(values[head, 0], expected), name
        assert positions[head, 0].tolist() == order.tolist(), name


def test_ties_that_overrun_a_list_are_repaired_and_counted(device):
    tally = Tally()
    queries, keys = one_hot(torch.stack([torch.zeros(900), torch.arange(900.0)]))
    values, positions = by_design("harvested", queries.to(device), keys.to(device), 4, tally)
    assert positions[0].tolist() == [[0, 1, 2, 3], [899, 898, 897, 896]]
    assert values[0, 0].tolist() == [0.0] * 4
    assert (tally.rows, tally.repaired) == (2, 1)


@pytest.mark.parametrize("design", DESIGNS)
def test_well_mixed_rows_need_no_repair(design, device):
    tally = Tally()
    queries, keys = operands((1, 1, 2, 2000, 16), device=device)
    values, at = by_design(design, queries, keys, 60, tally)
    expected = topk(summed(queries, keys), 60)
    assert torch.equal(values, expected[0])
    assert torch.equal(at, expected[1])
    assert (tally.rows, tally.repaired) == (2, 0)


def test_the_gate_passes_about_as_many_keys_as_expected(device):
    queries, keys = operands((1, 1, 8, 4000, 16), device=device)
    rows = as_rows(queries, keys, 1.0, None, None)
    found = harvest(rows, 40, sampled_bounds(rows, 40))
    logits = (queries.float() @ keys.float().mT)[0]
    passed = (logits >= found.bounds[:, None]).sum(-1)
    assert (passed >= 40).all()
    assert passed.float().mean() < 1.3 * expected_candidates(40)
    pairs = (logits.view(8, -1, 2) >= found.bounds[:, None, None]).any(-1).sum(-1)
    assert torch.equal(found.counts.sum(-1), pairs)


def sampled_apart(inside, outside, device):
    """Operands of one row whose sampled keys have one logit each and all others another."""
    logits = outside + torch.arange(3000.0) * 1e-3
    picks = sampled_positions(3000, torch.device("cpu"))
    mixed = torch.randperm(len(picks), generator=torch.Generator().manual_seed(0))
    logits[picks] = inside + mixed * 1e-3
    return torch.ones(1, 1, 1, device=device), logits[None, :, None].to(device)


@pytest.mark.parametrize(("inside", "outside"), [(50.0, 0.0), (0.0, 50.0)])
def test_a_sample_that_misleads_is_found_out_and_repaired(inside, outside, device):
    """In turn: the gate lies so high that too few pass, so low that the lists overrun."""
    queries, keys = sampled_apart(inside, outside, device)
    tally = Tally()
    values, at = by_design("harvested", queries, keys, 40, tally)
    expected, order = keys[0, :, 0].sort(descending=True, stable=True)
    assert tally.repaired == 1
    assert torch.equal(values[0, 0], expected[:40])
    assert torch.equal(at[0, 0], order[:40])


def test_a_band_that_overruns_is_repaired(device):
    """More equal keys at the cut than a row has room for near it, though the lists hold them."""
    logits = torch.arange(9000.0)
    logits[0::10] = 8500.5  # 900 equal keys under 450 larger ones
    tally = Tally()
    queries, keys = torch.ones(1, 1, 1, device=device), logits[None, :, None].to(device)
    values, at = by_design("harvested", queries, keys, 1000, tally)
    expected, order = logits.sort(descending=True, stable=True)
    assert BAND_ROOM < 900
    assert tally.repaired == 1
    assert torch.equal(values[0, 0].cpu(), expected[:1000])
    assert torch.equal(at[0, 0].cpu(), order[:1000])


def test_few_or_short_rows_are_stored_and_the_rest_is_harvested():
    def rows(count, keys):
        return as_rows(torch.zeros(1, count, 1), torch.zeros(1, keys, 1), 1.0, None, None)

    assert design_for(rows(64, 131072), 2048) == "stored"
    assert design_for(rows(1000, 9000), 2048) == "stored"
    assert design_for(rows(1000, 131072), 2048) == "harvested"


@pytest.mark.parametrize("design", ["stored", "harvested"])
def test_scratch_is_never_read_before_it_is_written(design, device, monkeypatch):
    """Every buffer starts as garbage: NaN, or the worst integer."""

    def dirty(*shape, dtype=torch.float32, device=None):
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        worst = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
        return torch.full(shape, worst, dtype=dtype, device=device)

    queries, keys = operands((2, 1, 3, 300, 16), device=device)
    positions = torch.tensor([5, 130, 299], device=device)
    expected = exact_topk_reference(queries, keys, 6, positions=positions)
    monkeypatch.setattr(torch, "empty", dirty)
    values, at = by_design(design, queries, keys, 6, positions=positions)
    torch.testing.assert_close(values, expected[0])
    assert torch.equal(at, expected[1])


@pytest.mark.parametrize("design", ["stored", "harvested"])
def test_small_workspace_changes_nothing(design, device):
    queries, keys = operands((1, 1, 18, 130, 16), device=device)
    rows = as_rows(queries, keys, 1.0, None, None)
    whole = rows_topk(rows, 3, design=design)
    parts = rows_topk(rows, 3, design=design, workspace=1)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("design", "dtype"), [("stored", torch.float32), ("harvested", torch.bfloat16)]
)
def test_logits_are_the_written_sum_bit_for_bit(case, design, dtype, device):
    """Set, order and values, on every path, and the k-th alone."""
    shape, k, options = CASES[case]
    if "positions" in options:
        options = {**options, "positions": torch.tensor(options["positions"], device=device)}
    queries, keys = operands(shape, dtype, device=device)
    values, positions = by_design(design, queries, keys, k, **options)
    expected, at = topk(summed(queries, keys, **options), k)
    assert torch.equal(values, expected)
    assert torch.equal(positions, at)
    rows = as_rows(queries, keys, options.get("scale", 1.0), options.get("positions"),
                   options.get("window"))  # fmt: skip
    last = torch.full(rows.shape[:2], float("nan"), device=device)
    answer(rows, k, None, last, design=design)
    assert torch.equal(last.view(values.shape[:2]), values[..., -1])


def test_the_support_alone_is_the_same_set(device):
    queries, keys = operands((4, 2, 3, 300, 16), device=device)
    support = exact_support(queries, keys, 9, backend="triton")
    expected = exact_topk(queries, keys, 9, backend="triton")[1]
    assert torch.equal(support.sort(-1).values, expected.sort(-1).values)
    reference = exact_support(queries, keys, 9, backend="torch")
    assert torch.equal(reference.sort(-1).values, expected.sort(-1).values)


def every_row_lost(monkeypatch, design):
    """The design's answers are all refused."""

    def fill(rows, k, chosen, values, failed):
        failed.fill_(1)

    made = DESIGNS[design]
    monkeypatch.setitem(deciding.DESIGNS, design, type(made)(fill, made.bytes_of, made.valued))


@pytest.mark.parametrize("lost", [["harvested"], ["harvested", "stored"]])
@pytest.mark.parametrize("window", [None, 70])
def test_a_repaired_row_has_the_same_bits(lost, window, device, monkeypatch):
    """From stored logits, and where those may overflow from written sums; each row sees its own."""
    queries, keys = operands((2, 1, 4, 300, 40), torch.float32, device=device)
    options = {"positions": torch.tensor([0, 5, 130, 299], device=device), "window": window}
    expected = topk(summed(queries, keys, **options), 6)
    for design in lost:
        every_row_lost(monkeypatch, design)
    tally = Tally()
    values, at = by_design("harvested", queries, keys, 6, tally, **options)
    assert tally.repaired == 8
    assert torch.equal(values, expected[0])
    assert torch.equal(at, expected[1])


def test_the_gate_passes_what_another_order_of_addition_may_lift(device):
    """Large products that cancel: the two sums of a key differ by more than many keys do."""
    queries, keys = operands((1, 1, 2, 512, 64), torch.float32, device=device)
    queries[..., 0::2], queries[..., 1::2] = 3e3, -3e3
    keys[..., 1::2] = keys[..., 0::2]
    keys[..., 5] += torch.rand(1, 512, device=device) * 1e-3
    expected = topk(summed(queries, keys), 8)
    for design in DESIGNS:
        values, at = by_design(design, queries, keys, 8)
        assert torch.equal(values, expected[0])
        assert torch.equal(at, expected[1])


@pytest.mark.parametrize("large", [INF, -INF, 3e38])
@pytest.mark.parametrize("design", ["stored", "harvested"])
def test_operands_beyond_the_error_bound_are_repaired(large, design, device):
    queries, keys = operands((1, 1, 3, 300, 16), torch.float32, device=device)
    queries[..., 0] = queries[..., 0].abs() + 0.5
    keys[0, 7::50, 0] = large
    tally = Tally()
    values, at = by_design(design, queries, keys, 4, tally)
    expected = topk(summed(queries, keys), 4)
    assert tally.repaired == 3
    assert torch.equal(values, expected[0])
    assert torch.equal(at, expected[1])


@pytest.mark.parametrize("small", [1e-18, 1e-25, 1e-36])
def test_squares_that_underflow_lower_the_gate_all_the_same(small, device):
    queries, keys = operands((1, 1, 3, 300, 24), torch.float32, device=device)
    expected = topk(summed(queries * small, keys), 5)
    for design in ("stored", "harvested"):
        values, at = by_design(design, queries * small, keys, 5)
        assert torch.equal(values, expected[0])
        assert torch.equal(at, expected[1])


def test_few_rows_search_as_many_do(device, monkeypatch):
    """Three thresholds a step or one: the same answer."""
    queries, keys = operands((1, 1, 4, 600, 16), device=device)
    three = exact_topk(queries, keys, 9, backend="triton")
    monkeypatch.setattr(bound, "FEW_ROWS", 0)
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
        ((1, 1, 1030, 66000, 128), 2048),  # harvested, as the next
        ((4, 2, 300, 70001, 64), 1000),
        ((1, 1, 700, 50000, 576), 500),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_large_shapes(shape, k, causal):
    queries, keys = operands(shape, device="cuda")
    keys_count, count = shape[3], shape[2]
    positions = torch.arange(keys_count - count, keys_count, device="cuda") if causal else None
    tally = Tally()
    values, at = exact_topk(queries, keys, k, scale=0.1, positions=positions, tally=tally)
    assert tally.repaired == 0
    group = shape[0] // shape[1]
    dim = shape[4]
    longest = keys.double().norm(dim=-1).amax(-1).repeat_interleave(group)
    error = 2 * dim * 2.0**-23 * 0.1 * queries.double().norm(dim=-1) * longest[:, None]
    for head in range(shape[0]):
        one = slice(head, head + 1)
        own = slice(head // group, head // group + 1)
        # the same set, order and bits as the written sum of every key
        logits = summed(queries[one], keys[own], scale=0.1, positions=positions)
        expected, order = topk(logits, k)
        assert torch.equal(at[one], order)
        assert torch.equal(values[one], expected)
        # in float64 only keys within the error of the boundary differ
        exact = queries[head].double() @ keys[head // group].double().T * 0.1
        if positions is not None:
            exact.masked_fill_(~visible(positions, None, keys_count), -INF)
        kth = exact.topk(k).values[:, -1]
        found = exact.gather(-1, at[head].clamp(min=0))
        assert (found >= (kth - error[head])[:, None]).all()
        above = exact > (kth + error[head])[:, None]
        taken = above.gather(-1, at[head].clamp(min=0)) & (at[head] >= 0)
        assert (above.sum(-1) == taken.sum(-1)).all()
    last = kth_logit(queries, keys, k, scale=0.1, positions=positions)
    assert torch.equal(last, values[..., -1])
    again = exact_topk(queries, keys, k, scale=0.1, positions=positions)[1]
    assert torch.equal(at, again)


@pytest.mark.gpu
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("causal", [False, True])
def test_every_design_at_length(design, causal):
    """Causal rows see 1 to all keys; the same bits from each design, and no repair but where few
    groups are seen or, in the landed design, fewer than k."""
    queries, keys = operands((2, 1, 700, 60000, 128), device="cuda")
    positions = torch.linspace(0, 59999, 700, device="cuda").long() if causal else None
    tally = Tally()
    values, at = by_design(design, queries, keys, 2048, tally, scale=0.1, positions=positions)
    expected = by_design("stored", queries, keys, 2048, scale=0.1, positions=positions)
    assert torch.equal(values, expected[0])
    assert torch.equal(at, expected[1])
    assert design == "certified" or tally.repaired == 0 or (causal and tally.repaired < 100)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64])
def test_a_graph_of_few_rows_answers_for_new_operands(rows):
    queries, keys = operands((1, 1, rows, 131072, 128), device="cuda")
    exact_topk(queries, keys, 2048, ordered=False)  # compiled before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values, at = exact_topk(queries, keys, 2048, ordered=False)
    keys.copy_(operands((1, 1, rows, 131072, 128), seed=1, device="cuda")[1])
    graph.replay()
    expected = exact_topk(queries, keys, 2048, ordered=False)
    assert torch.equal(at.sort(-1).values, expected[1].sort(-1).values)
    assert torch.equal(values.sort(-1).values, expected[0].sort(-1).values)


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
