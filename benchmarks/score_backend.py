"""Scoring a capture on a GPU: Triton kernels against torch on the same device.

    python benchmarks/score_backend.py                      a made-up capture of 16384 keys
    python benchmarks/score_backend.py --capture capture/   one of your own

Both backends score in turn in one process, so that the ratio of each pair holds when the clock
drifts; the first pair compiles the kernels and is left out. Beside the ratio stand the largest
differences of the two tables, and whether they lie within what `indexer_lab.agreement` allows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from indexer_lab.agreement import compare
from indexer_lab.backend import Backend
from indexer_lab.cli.scoring_step import score_step
from indexer_lab.store.capture import SampleInfo, create
from indexer_probes.records import IndexerRecord, LayerRecord, PlainKeys

PAIRS = 3


def made_up(folder: Path, length: int, rows: int) -> Path:
    """A capture of one bfloat16 layer: 32 query heads over 8 key heads, and 64 index heads."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).bfloat16()

    positions = torch.arange(length - rows, length)
    weights = torch.rand(rows, 64, generator=draw)
    native = torch.zeros(1, rows, 1, dtype=torch.int64)
    indexer = IndexerRecord(normal(64, rows, 128), normal(length, 128), weights, 0.09, native)
    keys = PlainKeys(normal(8, length, 128), normal(8, length, 128))
    record = LayerRecord(0, normal(32, rows, 128), keys, positions, 0.2, indexer=indexer)
    sample = SampleInfo("noise", "noise", length)
    capture = create(folder, {"model": "made-up", "layers": [0]}, [sample])
    capture.save(sample, record)
    return folder


def scored(
    capture: Path, folder: Path, backend: Backend, budget: str
) -> tuple[float, pd.DataFrame]:
    """Seconds that one run takes, files included, and its table."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    scores = score_step(
        capture=capture,
        output=folder / backend,
        selectors=("lightning", "lightning:precision=fp8"),
        targets=("per_head", "head_sum"),
        budgets=budget,
        device="cuda",
        backend=backend,
        force=True,
        quiet=True,
    )
    torch.cuda.synchronize()
    return time.perf_counter() - begin, scores.frame()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--budget", default="256,2048")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("score_backend: skipped, it needs a CUDA device: nothing was measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        capture = options.capture or made_up(work / "capture", options.length, options.rows)
        times = []
        for _ in range(1 + PAIRS):
            torch_seconds, plain = scored(capture, work, "torch", options.budget)
            triton_seconds, kernels = scored(capture, work, "triton", options.budget)
            times.append((torch_seconds, triton_seconds))
    report(times[1:], compare(kernels, plain))


def report(times: list[tuple[float, float]], found: pd.DataFrame) -> None:
    """Prints the times, their ratio and the differences; leaves with 1 where tables disagree."""
    plain, kernels = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(one / other for one, other in times)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"torch   {plain:8.3f} s\ntriton  {kernels:8.3f} s")
    print(
        f"torch / triton, median of pairs {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    print(found.to_string(index=False))
    if not found["agrees"].all():
        sys.exit("the tables of the two backends lie further apart than allowed")


if __name__ == "__main__":
    main()
