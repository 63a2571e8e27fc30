"""One capture made by one GPU, over a device map of two, and by two tensor-parallel processes.

    python benchmarks/several_gpus.py              needs two GPUs
    python benchmarks/several_gpus.py --cpu        the same ways on the CPU, to see them work

Random models of one dense and one sparse family are written and captured by the command itself,
each way in a process of its own. Printed for each: seconds from start to end, whether `validate`
holds, the largest difference from one GPU's tensors as a share of the tensor's largest number, and
the share of native selections that are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from streamed_layers import machine, write_row
from transformers import AutoConfig, AutoModelForCausalLM

RESULTS = Path(__file__).parent / "results" / "several_gpus.csv"
LAYERS = 4
WIDE = {
    "vocab_size": 1024,
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "max_position_embeddings": 32768,
}
SPARSE = {
    **WIDE,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 512,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 512,
    "kv_lora_rank": 256,
    "index_n_heads": 16,
    "index_head_dim": 128,
    "index_topk": 512,
    "first_k_dense_replace": 1,
}
FAMILIES = {"llama": {**WIDE, "num_key_value_heads": 4}, "deepseek_v32": SPARSE}
TINY = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "index_topk": 32,
}


def write_model(folder: Path, family: str, tiny: bool) -> None:
    settings = FAMILIES[family]
    shrunk = {name: TINY.get(name, value) if tiny else value for name, value in settings.items()}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **shrunk)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def ways(cpu: bool) -> dict[str, tuple[list[str], list[str]]]:
    """Name -> how python is started, and options of the command."""
    first, second = ("cpu", "disk") if cpu else (0, 1)
    halves = {f"model.layers.{n}": first if n < LAYERS // 2 else second for n in range(LAYERS)}
    rest = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), first)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return {
        "one device": ([], ["--device", "cpu" if cpu else "cuda:0"]),
        "device map": ([], ["--device-map", json.dumps(halves | rest)]),
        "tensor parallel": (torchrun, ["--tensor-parallel"]),
    }


def run(words: list[str], environment: dict[str, str]) -> float:
    """Seconds from start to end; a failure ends the benchmark with what it said."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return time.perf_counter() - began


def differences(one: Path, other: Path) -> tuple[float, float]:
    """Largest difference as a share of its tensor's largest number, and the share of equal native
    selections (1.0 where there is no indexer)."""
    worst, same, total = 0.0, 0, 0
    for file in sorted(one.rglob("*.safetensors")):
        expected, found = load_file(file), load_file(other / file.relative_to(one))
        for name, tensor in expected.items():
            if name == "indexer.native":
                pairs = zip(tensor.flatten(0, 1), found[name].flatten(0, 1), strict=True)
                for left, right in pairs:
                    same += len(set(left.tolist()) & set(right.tolist()) - {-1})
                    total += len(set(left.tolist()) - {-1})
            elif tensor.is_floating_point():
                size = max(float(tensor.float().abs().max()), 1e-30)
                gap = float((tensor.float() - found[name].float()).abs().max())
                worst = max(worst, gap / size)
    return worst, same / total if total else 1.0


def measure(arguments: argparse.Namespace, folder: Path, family: str) -> list[dict[str, object]]:
    write_model(folder / family, family, arguments.cpu)
    ids = torch.randint(0, 1024, (arguments.length,), generator=torch.Generator().manual_seed(0))
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "random", "input_ids": ids.tolist()}))
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if arguments.cpu else {})}
    rows: list[dict[str, object]] = []
    for name, (start, options) in ways(arguments.cpu).items():
        output = folder / f"{family}-{name.replace(' ', '-')}"
        words = ["-m", "indexer_lab", "capture", "--model", str(folder / family), "--values"]
        words += ["--prompts", str(prompts), "--dtype", arguments.dtype, "-o", str(output)]
        seconds = run([*start, *words, *options], environment)
        run(["-m", "indexer_lab", "validate", str(output)], environment)
        gap, same = differences(folder / f"{family}-one-device", output)
        rows.append(
            {
                "family": family,
                "way": name,
                "length": arguments.length,
                "dtype": arguments.dtype,
                "seconds": round(seconds, 2),
                "validates": True,
                "largest_difference": f"{gap:.2g}",
                "same_selection": round(same, 5),
                "devices": 1 if name == "one device" else 2,
                **machine(torch.device("cpu" if arguments.cpu else "cuda:0")),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in list(rows[-1].items())[:8]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--cpu", action="store_true", help="tiny models, no GPU")
    parser.add_argument("--csv", action="store_true", help=f"append rows to {RESULTS.name}")
    arguments = parser.parse_args()
    if not arguments.cpu and torch.cuda.device_count() < 2:
        print(f"passed over: {torch.cuda.device_count()} GPUs here, two are needed; or --cpu")
        return
    with tempfile.TemporaryDirectory(prefix="several-gpus-") as folder:
        for family in FAMILIES:
            for row in measure(arguments, Path(folder), family):
                if arguments.csv:
                    write_row(row, RESULTS)


if __name__ == "__main__":
    main()
