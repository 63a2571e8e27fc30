"""Number formats, bit for bit against value tables searched one number at a time."""

from __future__ import annotations

import math

import pytest
import torch

from indexer_kernels.quantize import e2m1, e4m3, hadamard, integer, sign
from indexer_kernels.topk import KernelError

E4M3 = sorted(
    {m / 8 * 2.0**-6 for m in range(8)}
    | {(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)}
)
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def nearest(x: float, table: list[float]) -> float:
    """The table's value nearest to |x|, the even code among equals, with x's sign."""
    size = min(abs(x), table[-1])
    code = min(range(len(table)), key=lambda code: (abs(table[code] - size), code % 2))
    return math.copysign(table[code], x)


def power_of_two_at_least(x: float) -> float:
    power = 2.0**-140
    while power < x:
        power *= 2
    return power


def literal(vector: list[float], table: list[float], floor: float) -> tuple[list[float], float]:
    amax = max(max(abs(x) for x in vector), floor)
    scale = power_of_two_at_least(amax / table[-1])
    return [nearest(x / scale, table) for x in vector], scale


def awkward(rows: int, dim: int) -> torch.Tensor:
    """Rows of every magnitude, with zeros, halves of grid steps and exact powers of two."""
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(1))
    x *= torch.logspace(-6, 5, rows)[:, None]
    x[0] = 0.0
    x[1] = torch.arange(dim) / 4.0 - 3  # sits on the ties of e2m1
    x[2] = torch.arange(dim) * 0.5 + 64.25  # and of e4m3
    x[3, 0] = 448.0
    return x.float()


@pytest.mark.parametrize(
    ("form", "table", "floor", "block"),
    [(e4m3, E4M3, 1e-4, 32), (e4m3, E4M3, 1e-4, 16), (e2m1, E2M1, 6 * 2.0**-126, 32)],
)
def test_floats_equal_the_table_search(form, table, floor, block):
    x = awkward(14, 32)
    made = form(x, block)
    for row in range(len(x)):
        for part, start in enumerate(range(0, 32, block)):
            codes, scale = literal(x[row, start : start + block].tolist(), table, floor)
            assert made.scales[row, part].item() == scale
            assert made.codes[row, start : start + block].tolist() == codes


def test_a_ragged_last_block_has_a_scale_of_its_own():
    x = torch.cat([torch.full((32,), 6.0), torch.full((18,), 48.0)])
    made = e2m1(x, 32)
    assert made.scales.tolist() == [1.0, 8.0]
    assert torch.equal(made.dequantise(), x)


def test_the_largest_value_never_overflows():
    made = e4m3(torch.tensor([[448.0, 1.0], [449.0, 1.0]]))
    assert made.scales[:, 0].tolist() == [1.0, 2.0]
    assert made.codes.isfinite().all()


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_by_hand(bits: int):
    top = 2 ** (bits - 1) - 1
    x = torch.tensor([[float(top), -2.5, 1.5, 0.4]])
    made = integer(x, bits)
    assert made.codes.tolist() == [[top, -2.0, 2.0, 0.0]]  # halves go to even
    assert made.scales.tolist() == [[1.0]]
    assert integer(torch.zeros(1, 4), bits).dequantise().tolist() == [[0.0] * 4]


def test_signs_by_hand():
    made = sign(torch.tensor([[3.0, -1.0, 0.0, -0.0]]))
    assert made.codes.tolist() == [[1, -1, 1, 1]]
    assert made.scales.tolist() == [[1.0]]


@pytest.mark.parametrize("dim", [1, 2, 8, 128])
def test_hadamard_equals_sylvesters_matrix(dim: int):
    matrix = torch.tensor(
        [[(-1.0) ** bin(row & column).count("1") for column in range(dim)] for row in range(dim)]
    )
    x = torch.randn(5, 3, dim)
    torch.testing.assert_close(hadamard(x), x @ matrix * dim**-0.5)


def test_hadamard_keeps_products_and_dtype():
    queries, keys = torch.randn(4, 64), torch.randn(9, 64)
    torch.testing.assert_close(hadamard(queries) @ hadamard(keys).T, queries @ keys.T)
    assert hadamard(queries.bfloat16()).dtype == torch.bfloat16


def test_what_no_format_can_do_is_refused():
    with pytest.raises(KernelError, match="power of two"):
        hadamard(torch.zeros(2, 96))
    with pytest.raises(KernelError, match="bits = 9"):
        integer(torch.zeros(2, 4), 9)
    with pytest.raises(KernelError, match="block = 0"):
        e4m3(torch.zeros(2, 4), 0)
