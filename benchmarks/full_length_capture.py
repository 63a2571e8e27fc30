"""One layer at DeepSeek-V3.2's width, to its full context: transformers plain, transformers with
chunked prefill through its cache, and a capture of ours, side by side.

    python benchmarks/full_length_capture.py                       about 3 minutes on an H200
    python benchmarks/full_length_capture.py --lengths 16384 --who plain,capture
    python benchmarks/full_length_capture.py --shape tiny --device cpu --lengths 64

Weights are random; the feed-forward part and the vocabulary are cut down, since neither attention
nor the indexer depends on them. A time is the median of as many passes as fit into --seconds (one
at least, after a warm-up pass of 2048 tokens); a peak is what the allocator held above the weights.
A peer that runs out of memory is a row that says so.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM, DynamicCache

from indexer_lab.engine import engine_for
from indexer_lab.provenance import commit
from indexer_probes.capture import capture
from indexer_probes.records import LayerRecord

RESULTS = Path(__file__).parent / "results" / "full_length_capture.csv"
LENGTHS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 163840)
WARM_UP = 2048
KEPT = 256  # query rows that a capture keeps, as `indexer-lab capture` does when not told
SHAPES: dict[str, dict[str, Any]] = {
    "v32": {
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    },
    "tiny": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "index_n_heads": 8,
        "index_head_dim": 32,
        "index_topk": 16,
    },
}
FIELDS = (
    "shape", "length", "who", "seconds", "passes", "peak_gib", "weights_gib", "note", "gpu",
    "driver", "cuda", "torch", "transformers", "triton", "python", "commit", "day",
)  # fmt: skip


def build(shape: str, device: torch.device, longest: int) -> DeepseekV32ForCausalLM:
    """A bfloat16 model of one layer of this width, its index weights in float32 as loaded ones."""
    config = DeepseekV32Config(
        **SHAPES[shape],
        num_hidden_layers=1,
        first_k_dense_replace=1,
        intermediate_size=256,
        vocab_size=256,
        max_position_embeddings=longest,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = DeepseekV32ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    for layer in model.model.layers:
        layer.self_attn.indexer.weights_proj.float()
    return model.eval().requires_grad_(False)


def prompt(length: int, device: torch.device) -> Tensor:
    """int64 [1, length]: random tokens; what they are does not change the work."""
    ids = torch.randint(0, 256, (1, length), generator=torch.Generator().manual_seed(1))
    return ids.to(device)


def plain(model: DeepseekV32ForCausalLM, ids: Tensor) -> None:
    model(input_ids=ids, use_cache=False, logits_to_keep=1)


def chunk_of(model: DeepseekV32ForCausalLM, length: int) -> int:
    """Rows a chunk, 128 to 512, such that the indexer's float32 scores stay under 5.5 GB."""
    fitting = int(5.5e9) // (4 * model.config.index_n_heads * length)
    return max(128, min(512, 1 << max(0, fitting.bit_length() - 1)))


def chunked(model: DeepseekV32ForCausalLM, ids: Tensor) -> None:
    cache = DynamicCache(config=model.config)
    for piece in ids.split(chunk_of(model, ids.shape[1]), dim=1):
        model(input_ids=piece, past_key_values=cache, logits_to_keep=1)


def captured(model: DeepseekV32ForCausalLM, ids: Tensor) -> list[LayerRecord]:
    """The record of the prompt, its last KEPT queries, as a capture on this device makes it."""
    records: list[LayerRecord] = []
    engine = engine_for("auto", ids.device)
    rows = max(0, ids.shape[1] - KEPT)
    with capture(
        model, records.append, rows=lambda n: torch.arange(rows, n), values=True, engine=engine
    ):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return records


ENTRANTS: dict[str, Callable[[DeepseekV32ForCausalLM, Tensor], object]] = {
    "plain": plain,
    "chunked": chunked,
    "capture": captured,
}


def measured(
    model: DeepseekV32ForCausalLM, who: str, ids: Tensor, budget: float
) -> dict[str, object]:
    """Seconds, peak GiB over what was held before, and a note; an empty time where it failed."""
    work = ENTRANTS[who]
    times: list[float] = []
    begin = reset_peak(ids.device)
    try:
        while not times or sum(times) + min(times) < budget:
            start = time.perf_counter()
            work(model, ids)
            wait(ids.device)
            times.append(time.perf_counter() - start)
    except (torch.OutOfMemoryError, MemoryError):
        return {"seconds": "", "passes": 0, "peak_gib": "", "note": "out of memory"}
    finally:
        if ids.is_cuda:
            torch.cuda.empty_cache()
    held = "" if begin is None else f"{(torch.cuda.max_memory_allocated() - begin) / 2**30:.2f}"
    note = f"chunks of {chunk_of(model, ids.shape[1])}" if who == "chunked" else ""
    median = f"{statistics.median(times):.4f}"
    return {"seconds": median, "passes": len(times), "peak_gib": held, "note": note}


def reset_peak(device: torch.device) -> int | None:
    """Bytes held now, from which the peak counts; None where there is no such counter."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def machine(device: torch.device) -> dict[str, object]:
    """What a reader needs to repeat the run."""
    on_gpu = device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(device) if on_gpu else "none (cpu)",
        "driver": driver() if on_gpu else "",
        "cuda": torch.version.cuda or "",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "triton": triton_version(),
        "python": sys.version.split()[0],
        "commit": commit() or "",
        "day": time.strftime("%Y-%m-%d"),
    }


def driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.split("\n")[0].strip()


def triton_version() -> str:
    try:
        return version("triton")
    except ModuleNotFoundError:
        return ""


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """A row for each length and entrant, as soon as it is measured."""
    device = torch.device(arguments.device)
    model = build(arguments.shape, device, max(arguments.lengths))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    facts = machine(device)
    with torch.inference_mode():
        warm = prompt(min(WARM_UP, max(arguments.lengths)), device)
        for who in arguments.who:
            ENTRANTS[who](model, warm)
        wait(device)
        for length in arguments.lengths:
            ids = prompt(length, device)
            for who in arguments.who:
                row: dict[str, object] = {"shape": arguments.shape, "length": length, "who": who}
                row.update(measured(model, who, ids, arguments.seconds))
                yield {**row, "weights_gib": f"{weights / 2**30:.3f}", **facts}


def show(row: dict[str, object], earlier: dict[tuple[object, object], object]) -> None:
    """One line of the table; ours with its ratio to each peer."""
    said = f"{float(str(row['seconds'])):10.3f} s" if row["seconds"] else f"{'':>12}"
    held = f"{row['peak_gib']:>8} GiB" if row["peak_gib"] else f"{'':>12}"
    line = f"{row['length']:>8}  {row['who']:<8} {said} {held}  {row['note']}"
    if row["who"] == "capture" and row["seconds"]:
        for who in ("plain", "chunked"):
            peer = earlier.get((row["length"], who))
            if peer:
                line += f"{who} / capture = {float(str(peer)) / float(str(row['seconds'])):.1f}  "
    print(line.rstrip(), flush=True)


def numbers(text: str) -> list[int]:
    return [int(piece) for piece in text.split(",")]


def names(text: str) -> list[str]:
    found = text.split(",")
    for name in found:
        if name not in ENTRANTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ENTRANTS)}")
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--lengths", type=numbers, default=list(LENGTHS))
    parser.add_argument("--who", type=names, default=list(ENTRANTS))
    parser.add_argument("--shape", choices=SHAPES, default="v32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1.5, help="longest to repeat one case")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args(words)
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device: nothing was measured (or --device cpu)")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    times: dict[tuple[object, object], object] = {}
    with arguments.output.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS)
        writer.writeheader()
        for row in rows(arguments):
            writer.writerow(row)
            handle.flush()  # a run that is stopped keeps what it has
            show(row, times)
            times[row["length"], row["who"]] = row["seconds"]


if __name__ == "__main__":
    main()
