"""What running a model on exact top-k costs beside running it densely: same tokens, same machine.

    python benchmarks/replay_cost.py --threads 1

One run is what `quality --mode replay` does once: read the prompt into a cache, then force tokens
on the model. `replay`: the prompt dense and the forced queries on their exact top-k, per head.
`every query`: the prompt's queries on their exact top-k too. Dense and sparse runs alternate, so
that their ratio holds when the machine's speed drifts. The llama is random and tiny: its linear
layers cost little, so that attention, and with it the top-k, weighs as much as it ever can.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from indexer_lab.quality.forward import Clock, prefill, replay
from indexer_lab.reference import resolve
from indexer_lab.selectors import selector
from indexer_lab.selectors.following import follower
from indexer_probes.loading import load_model
from indexer_probes.steering import steer

RESULTS = Path(__file__).parent / "results" / "replay_cost.csv"
TINY = {
    **{"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16384},
}


def tiny_llama() -> Any:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return LlamaForCausalLM(LlamaConfig(**TINY, rope_parameters=rope)).eval()


def whole(model: Any, ids: Tensor, forced: list[int], budget: int, sparse: str) -> float:
    """Seconds of prompt and forced tokens; sparse: nothing, forced or every."""
    exact = follower(selector("exact"))

    def choose(record: Any) -> Tensor:
        return exact.fit(record).top(budget)

    start = time.perf_counter()
    with steer(model, choose, layers=None if sparse == "every" else ()):
        cache = prefill(model, ids)
    with steer(model, choose, layers=() if sparse == "nothing" else None):
        replay(model, cache, int(ids[-1]), forced, Clock(model.device))
    return time.perf_counter() - start


def measure(
    name: str, build: Callable[[], Any], length: int, tokens: int, budget: int, sparse: str,
    repeats: int,
) -> dict[str, object]:  # fmt: skip
    model = build()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 500, (length - tokens,), generator=draw)
    forced = torch.randint(3, 500, (tokens,), generator=draw).tolist()
    whole(model, ids[:256], forced, 16, sparse)
    pairs = [
        tuple(whole(model, ids, forced, budget, kind) for kind in ("nothing", sparse))
        for _ in range(repeats)
    ]
    ratios = sorted(own / dense for dense, own in pairs)
    return {
        "model": name,
        "tokens": length,
        "forced": tokens,
        "budget": budget,
        "sparse_queries": {"forced": "replay", "every": "every query"}[sparse],
        "repeats": repeats,
        "dense_s_median": round(statistics.median(dense for dense, _ in pairs), 3),
        "exact_s_median": round(statistics.median(own for _, own in pairs), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_max": round(ratios[-1], 3),
    }


def machine() -> dict[str, object]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [
        ("llama, random, 2 layers", tiny_llama, 8192, 16, 256, "forced"),
        ("llama, random, 2 layers", tiny_llama, 8192, 512, 256, "forced"),
        ("llama, random, 2 layers", tiny_llama, 8192, 16, 256, "every"),
        ("needle-dsa", lambda: load_model(resolve("needle-dsa")), 2048, 16, 16, "forced"),
        ("needle-dsa", lambda: load_model(resolve("needle-dsa")), 2048, 512, 16, "forced"),
    ]
    where, table = machine(), []
    for case in cases:
        row = measure(*case, repeats=options.repeats)
        print(
            f"{row['model']:24s} {row['tokens']} tokens, {row['forced']} forced, "
            f"{row['sparse_queries']}: {row['exact_s_median']} s, {row['ratio_median']} of dense "
            f"({row['ratio_min']} to {row['ratio_max']})",
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
