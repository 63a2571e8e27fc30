"""What the kernel benchmarks share: clock, table, CSV.

A time is that of one call, by CUDA events, after warm-up; the 20th, 50th and 80th percentile are
kept. `cold` overwrites the L2 cache before each call.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton

RESULTS = Path(__file__).parents[1] / "results"
L2_FLUSH_BYTES = 256 << 20
SECONDS = float(os.environ.get("BENCH_SECONDS", "1.5"))  # longest that one case is repeated
FIELDS = (
    "function", "case", "who", "p20_ms", "p50_ms", "p80_ms", "peak_extra_mib", "target_ms",
    "predicted_ms", "note", "gpu", "driver", "cuda", "torch", "triton", "python", "commit", "day",
)  # fmt: skip


def variants_asked() -> bool:
    """Whether other cuts and designs are to be measured too: `--variants`."""
    return "--variants" in sys.argv[1:]


def need_gpu() -> None:
    """Ends the program with one line where there is no CUDA device."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device: nothing was measured")


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """The work as a CUDA graph: what it costs once launching is free."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def milliseconds(work: Callable[[], object], cold: bool) -> list[float]:
    """The 20th, 50th and 80th percentile of a call's time."""
    flush = torch.empty(L2_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while len(times) < 5 or (len(times) < 100 and time.monotonic() < end):
        if cold:
            flush.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return torch.tensor(times).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()


def peak_extra(work: Callable[[], object]) -> float:
    """MiB that torch's allocator needs above what is allocated before the call."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


class Table:
    """Rows of one function's benchmark; prints each as it comes and writes them as CSV."""

    def __init__(self, function: str):
        self.function = function
        self.rows: list[dict[str, object]] = []
        self.machine = machine()
        print(f"{function} on {self.machine['gpu']}", flush=True)

    def add(
        self,
        case: str,
        who: str,
        work: Callable[[], object],
        *,
        target: float | None = None,
        predicted: str = "",
        cold: bool = False,
        note: str = "",
    ) -> None:
        """Times one entrant; a failure is a row that says so.

        target: ms of the project's goal. predicted: what docs/kernels.md expected, "0.6-0.8".
        """
        row: dict[str, object] = dict.fromkeys(FIELDS, "")
        row.update(self.machine, function=self.function, case=case, who=who, note=note)
        row["target_ms"] = "" if target is None else target
        row["predicted_ms"] = predicted
        try:
            row["peak_extra_mib"] = f"{peak_extra(work):.0f}"
            p20, p50, p80 = milliseconds(work, cold)
            row.update(p20_ms=f"{p20:.4f}", p50_ms=f"{p50:.4f}", p80_ms=f"{p80:.4f}")
            said = f"{p50:9.3f} ms   (p20 {p20:.3f}, p80 {p80:.3f})"
        except Exception as error:  # an entrant that fails must not end the comparison
            row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
            said = f"failed: {row['note']}"
        self.rows.append(row)
        aim = f"  predicted {predicted}" if predicted else ""
        aim += "" if target is None else f"  target {target}"
        print(f"  {case:<44} {who:<28} {said}{aim}  {row['peak_extra_mib']} MiB", flush=True)
        torch.cuda.empty_cache()

    def write(self) -> None:
        """benchmarks/results/<function>.csv"""
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{self.function}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)


def machine() -> dict[str, object]:
    """What a reader needs to repeat the run."""
    commit = os.environ.get("COMMIT") or _said("git", "rev-parse", "--short", "HEAD")
    driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver.splitlines()[0] if driver else "",
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "commit": commit,
        "day": time.strftime("%Y-%m-%d"),
    }


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
