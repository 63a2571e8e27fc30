"""What a capture costs on top of the plain forward pass, in time and in memory.

    python benchmarks/capture_overhead.py --model needle-dsa --length 8192

Plain and captured forwards run in turn in one process, so that the ratio of each pair holds when
the machine's speed drifts; peaks come from a process of their own each. `cpu_ratio` compares the
processor's time, where the clock's is stretched by whatever else the machine does. "records"
is the largest layer record, the bound that a capture's memory on top of the model is held to.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from indexer_lab.positions import parse
from indexer_lab.reference import resolve
from indexer_lab.store.records import save
from indexer_probes.capture import capture
from indexer_probes.loading import load_model
from indexer_probes.records import LayerRecord

RESULTS = Path(__file__).parent / "results" / "capture_overhead.csv"


def ids_for(model: torch.nn.Module, length: int) -> torch.Tensor:
    """int64 [1, length]: random tokens; what they are does not change the work."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.config.vocab_size, (1, length), generator=generator)


def plain(model: torch.nn.Module, ids: torch.Tensor) -> None:
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False, logits_to_keep=1)


def captured(model: torch.nn.Module, ids: torch.Tensor, positions: str, folder: Path) -> int:
    """Bytes of the largest layer record; records are written as a capture writes them."""
    largest = 0

    def keep(record: LayerRecord) -> None:
        nonlocal largest
        size = sum(tensor.numel() * tensor.element_size() for _, tensor in record.tensors())
        largest = max(largest, size)
        save(record, folder / f"{record.layer}.safetensors", folder / f"{record.layer}.shared")

    with torch.inference_mode(), capture(model, keep, rows=parse(positions).rows, values=True):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return largest


def timed(work: Callable[..., Any], *words: object) -> tuple[float, float, Any]:
    """Seconds on the clock and of the processor, and what the work gave."""
    begin, spent = time.perf_counter(), time.process_time()
    result = work(*words)
    return time.perf_counter() - begin, time.process_time() - spent, result


def peak(arguments: argparse.Namespace, what: str) -> float:
    """Peak resident MiB of a process that runs one forward of this kind."""
    words = [sys.executable, __file__, "--model", arguments.model, "--length"]
    words += [str(arguments.length), "--positions", arguments.positions, "--once", what]
    words += ["--threads", str(arguments.threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def once(arguments: argparse.Namespace) -> None:
    model = load_model(resolve(arguments.model))
    ids = ids_for(model, arguments.length)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.once == "captured":
            captured(model, ids, arguments.positions, Path(folder))
        elif arguments.once == "plain":
            plain(model, ids)
    print(high_water())


def high_water() -> float:
    """Peak resident MiB of this process; getrusage would count its parent's size before exec."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def compare(arguments: argparse.Namespace) -> dict[str, object]:
    model = load_model(resolve(arguments.model))
    ids = ids_for(model, arguments.length)
    pairs, largest = [], 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for _ in range(arguments.repeats + 1):
            without, without_cpu, _ = timed(plain, model, ids)
            wall, cpu, largest = timed(captured, model, ids, arguments.positions, place)
            pairs.append((without, wall, cpu / without_cpu))
    ratios = [wall / without for without, wall, _ in pairs[1:]]
    peaks = {what: peak(arguments, what) for what in ("loaded", "plain", "captured")}
    return {
        "model": arguments.model,
        "length": arguments.length,
        "positions": arguments.positions,
        "repeats": arguments.repeats,
        "plain_s": round(statistics.median(pair[0] for pair in pairs[1:]), 3),
        "captured_s": round(statistics.median(pair[1] for pair in pairs[1:]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "cpu_ratio": round(statistics.median(pair[2] for pair in pairs[1:]), 3),
        "largest_record_mib": round(largest / 2**20, 1),
        **{f"{what}_peak_mib": round(value) for what, value in peaks.items()},
        "threads": arguments.threads,
        "torch": torch.__version__,
        "processor": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="needle-dsa")
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--positions", default="last:256")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--once", choices=["loaded", "plain", "captured"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.once:
        once(arguments)
        return
    row = compare(arguments)
    RESULTS.parent.mkdir(exist_ok=True)
    earlier = list(csv.DictReader(RESULTS.read_text().splitlines())) if RESULTS.exists() else []
    with RESULTS.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(row), restval="")
        writer.writeheader()
        writer.writerows([*earlier, row])
    for name, value in row.items():
        print(f"{name:>20}  {value}")


if __name__ == "__main__":
    main()
