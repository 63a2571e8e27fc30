"""Exact top-k on a CPU against faiss.IndexFlatIP: same queries, keys, k and threads.

    python benchmarks/exact_topk_cpu.py --threads 1

Ours is what the `exact` selector does per head: a matmul, then `indexer_kernels.topk`. Both run in
turn in one process, so that the ratio of each pair holds when the machine's speed drifts. The index
is filled before the clock starts. Ratios above 1 mean that ours is faster.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from indexer_kernels.topk import topk

RESULTS = Path(__file__).parent / "results" / "exact_topk_cpu.csv"
CASES = list(itertools.product((8192, 32768), (64, 128), (256, 2048)))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def check_same(
    queries: torch.Tensor, keys: torch.Tensor, ours: torch.Tensor, theirs: np.ndarray
) -> None:
    """Both found keys of the same products; rounding may swap near-equal ones at the boundary."""
    products = queries.double() @ keys.double().T
    mine = products.gather(-1, ours).sort(dim=-1).values
    other = products.gather(-1, torch.from_numpy(theirs)).sort(dim=-1).values
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def measure(rows: int, length: int, dim: int, k: int, repeats: int) -> dict[str, object]:
    draw = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(count, dim, generator=draw) for count in (rows, length))
    index = faiss.IndexFlatIP(dim)
    index.add(keys.numpy())

    def exact() -> torch.Tensor:
        return topk(queries @ keys.T, k)[1]

    def flat() -> np.ndarray:
        return index.search(queries.numpy(), k)[1]

    check_same(queries, keys, exact(), flat())
    pairs = [(seconds(exact), seconds(flat)) for _ in range(repeats)]
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    return {
        "keys": length,
        "dim": dim,
        "k": k,
        "rows": rows,
        "repeats": repeats,
        "exact_ms_median": round(1e3 * statistics.median(ours for ours, _ in pairs), 2),
        "faiss_ms_median": round(1e3 * statistics.median(theirs for _, theirs in pairs), 2),
        "ratio_min": round(ratios[0], 2),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_max": round(ratios[-1], 2),
    }


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    where = machine()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    print("faiss.IndexFlatIP time / ours, median of pairs (min to max)")
    table = []
    for length, dim, k in CASES:
        row = measure(options.rows, length, dim, k, options.repeats)
        print(
            f"{length:6d} keys  dim {dim:3d}  k {k:4d}  "
            f"{row['ratio_median']:6.2f}  ({row['ratio_min']} to {row['ratio_max']})",
            flush=True,
        )
        table.append({**row, **where})
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
