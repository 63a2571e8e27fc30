"""How fast a checkpoint goes through a capture layer by layer, beside what its disk can give.

    python benchmarks/streamed_layers.py                    DeepSeek-V3.2's real width, on a GPU
    python benchmarks/streamed_layers.py --width small      anywhere, in seconds

Writes a synthetic FP8 checkpoint in the published format into --folder (about 24 GB at real width),
measures plain reads of it, then streams a capture through its layers; both begin with the files
dropped from the system's memory. The hours are for the published 3 dense and 58 sparse layers at
the pace of this run's last layer of each kind.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from synthetic import WIDTHS, write_checkpoint

from indexer_lab.capturing import Encoded, Plan, manifest
from indexer_lab.capturing_streamed import run_streamed
from indexer_lab.positions import parse
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.files import free_bytes
from indexer_lab.streamed_rates import facts
from indexer_probes.streaming.model import LayerTimes, StreamedModel, open_model
from indexer_probes.streaming.reading import forget, plain_rate

RESULTS = Path(__file__).parent / "results" / "streamed_layers.csv"
PUBLISHED = (3, 58)  # dense and sparse layers of the model
NEEDED = {"real": 26 << 30, "small": 1 << 30}  # bytes of disk


def prompts(model: StreamedModel, count: int, tokens: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    most = model.config.vocab_size
    return [
        Encoded(
            torch.randint(0, most, (tokens,), generator=generator),
            SampleInfo(f"random-{number}", "noise", tokens),
        )
        for number in range(count)
    ]


def stream(model: StreamedModel, arguments: argparse.Namespace, output: Path) -> None:
    layers = list(range(len(model.frame.layers)))
    plan = Plan(layers, parse(arguments.positions), arguments.positions, False, 4)
    encoded = prompts(model, arguments.prompts, arguments.tokens)
    told = manifest(model, "synthetic", None, encoded, plan, seed=0)
    run_streamed(model, encoded, plan, told, output, done=lambda line: print(line, flush=True))


def hours(times: list[LayerTimes], dense: int) -> float:
    """For the published model, at the pace of the last dense and the last sparse layer."""
    kinds = times[:dense], times[dense:]
    paced = [count * kind[-1].seconds for count, kind in zip(PUBLISHED, kinds, strict=True) if kind]
    return sum(paced) / 3600


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    device = torch.device(arguments.device)
    checkpoint = folder / "checkpoint"
    began = time.perf_counter()
    size = write_checkpoint(
        checkpoint, arguments.width, arguments.dense, arguments.sparse, arguments.shard << 20
    )
    print(f"wrote {size / 1e9:.1f} GB in {time.perf_counter() - began:.0f} s", flush=True)
    files = sorted(checkpoint.glob("*.safetensors"))
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())  # only what is on disk can be dropped from memory
    rate = plain_rate(files, seconds=arguments.seconds)
    forget(files)
    began = time.perf_counter()
    model = open_model(str(checkpoint), device=arguments.device)
    opened = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stream(model, arguments, folder / "capture")
    told = facts(model.times, rate, sum(PUBLISHED))
    last = model.times[-1]
    return {
        "width": arguments.width,
        "dense": arguments.dense,
        "sparse": arguments.sparse,
        "prompts": arguments.prompts,
        "tokens": arguments.tokens,
        "stored_gb": round(size / 1e9, 3),
        "disk_gb_per_s": round(told["disk_gb_per_s"], 3),
        "read_gb_per_s": round(told["read_gb_per_s"], 3),
        "end_to_end_gb_per_s": round(told["end_to_end_gb_per_s"], 3),
        "open_s": round(opened, 2),
        "last_layer_gb": round(last.bytes / 1e9, 3),
        "last_read_s": round(last.read_seconds, 3),
        "last_waited_s": round(last.waited_seconds, 3),
        "last_fill_s": round(last.fill_seconds, 3),
        "last_compute_s": round(last.compute_seconds, 3),
        "last_layer_s": round(last.seconds, 3),
        "model_hours": round(hours(model.times, arguments.dense), 4),
        "layer_gib": round(_layer_bytes(model) / 2**30, 2),
        "peak_gib": round(_peak(device) / 2**30, 2),
        **machine(device),
    }


def _layer_bytes(model: StreamedModel) -> int:
    """The last layer's size as it computes."""
    parameters = model.frame.layers[-1].parameters()
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def machine(device: torch.device) -> dict[str, object]:
    """What a reader needs to repeat the run."""
    revision = ["git", "rev-parse", "--short", "HEAD"]
    said = subprocess.run(revision, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": os.environ.get("COMMIT") or said,
        "day": time.strftime("%Y-%m-%d"),
    }


def write_row(row: dict[str, object], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, list(row), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", choices=sorted(WIDTHS), default="real")
    parser.add_argument("--dense", type=int, default=1, help="dense layers to write and stream")
    parser.add_argument("--sparse", type=int, default=2, help="layers with experts")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--positions", default="last:256")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one")
    parser.add_argument("--shard", type=int, default=4300, help="MB of a shard")
    parser.add_argument("--seconds", type=float, default=5.0, help="of plain reads")
    parser.add_argument("--csv", action="store_true", help=f"append a row to {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    if arguments.width == "real" and not torch.cuda.is_available():
        print("passed over: the real width needs a CUDA device; --width small runs anywhere")
        return
    folder = Path(tempfile.mkdtemp(prefix="streamed-layers-", dir=arguments.folder))
    try:
        if free_bytes(folder) < NEEDED[arguments.width]:
            sys.exit(f"{folder} has too little room: name another disk with --folder")
        row = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    if arguments.csv:
        write_row(row, RESULTS)
    for name, value in row.items():
        print(f"{name:>20}  {value}")


if __name__ == "__main__":
    main()
