"""Compiles the kernels for Hopper and prints, a JSON line each, what their text holds.

python tests/kernels/compiling.py [word]     those whose name holds the word
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from indexer_kernels.bound import bound_kernel
from indexer_kernels.certified import cut_kernel, expand_kernel
from indexer_kernels.harvest import harvest_kernel, settle_kernel
from indexer_kernels.headsum_topk import headsum_kernel
from indexer_kernels.lightning_topk import lightning_kernel
from indexer_kernels.margin import key_norms_kernel
from indexer_kernels.row_select import select_kernel
from indexer_kernels.scoring import scoring_kernel
from indexer_kernels.sparse_attention import sparse_kernel
from indexer_kernels.stored import storing_kernel
from indexer_kernels.streaming import statistics_kernel
from indexer_kernels.written import logits_kernel

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    **dict.fromkeys(("queries", "keys", "tails", "key_tails"), "*bf16"),
    **dict.fromkeys(("positions", "words", "tops", "counts", "hits"), "*i32"),
    **dict.fromkeys(("chosen", "band", "support", "candidates"), "*i64"),
    **dict.fromkeys(("state", "failed"), "*i8"),
    **dict.fromkeys(
        ("bounds", "maxima", "scores", "squares", "halves", "values", "sums", "moments", "lse",
         "weights", "key_scales", "outputs"), "*fp32"),
    **dict.fromkeys(("scale", "relative", "absolute", "tiny", "largest"), "fp32"),
}  # fmt: skip
# sizes that a launch finds divisible by 16, as Triton does by itself
EVEN = {"rows", "count", "batch_stride", "key_stride", "query_count", "tail_stride", "value_stride"}

TILE = {"dim": 128, "chunk": 128, "block_m": 128, "block_n": 128, "window": 0}
OPEN = {"causal": False, "positions": None}
CAUSAL = {"causal": True}
WIDE = {"dim": 576, "chunk": 64}
GATHER = {"dim": 128, "padded": 128, "levels": 7}
SEARCH = {"many": False, "rest": 1024}
FINAL = {"queries": None, "keys": None, "squares": None}


def cases() -> Iterator[tuple[str, object, dict[str, object], dict[str, object]]]:
    """Names, kernels, constants and, under their parameters' names, other types and options."""
    maxima = {"group": 16, "mode": "maxima", "bounds": None, "words": None, "scores": None}
    yield "maxima", scoring_kernel, TILE | maxima | OPEN, {"stages": 2}
    yield "maxima, d 576, causal", scoring_kernel, TILE | maxima | CAUSAL | WIDE, {}
    bits = {"group": 16, "mode": "gate", "maxima": None, "scores": None}
    yield "gate, causal", scoring_kernel, TILE | bits | CAUSAL, {}
    lists = {"records": "*i32", "stages": 2}
    direct = {"direct": True}
    yield "harvest", harvest_kernel, TILE | direct | OPEN | {"edge": False}, lists
    yield "harvest, causal", harvest_kernel, TILE | direct | CAUSAL | {"edge": True}, lists
    yield "harvest, d 576", harvest_kernel, TILE | direct | OPEN | {"edge": False} | WIDE, lists
    settling = {"segments": 16, "width": 512, "rest": 64, "band_room": 512, "many": False,
                "kth_only": False, "block": 64, "band_block": 256, "norms": 1024,
                "tile_hits": 16}  # fmt: skip
    yield "settle", settle_kernel, GATHER | settling, {"fused": False}
    span = {"block_m": 128, "block_n": 128, "window": 0}
    groups = {"group": 8, "block": 2048}
    yield "bound", bound_kernel, span | OPEN | SEARCH | groups, {"keys": "i32", "warps": 4}
    yield "positions from bits", expand_kernel, span | CAUSAL | {"block": 256}, {
        "keys": "i32", "warps": 4}  # fmt: skip
    cut = {"width": 4096, "kth_only": False, "proven": True, "dim": 128, "padded": 128,
           "band_block": 256, "norms": 1024}  # fmt: skip
    yield "cut", cut_kernel, SEARCH | cut, {"records": "*i64"}
    select = {"group": 16, "block": 8192, "step": 2048, "width": 4096, "kth_only": False,
              "gathered": 64, "band_block": 256, "norms": 512}  # fmt: skip
    few = {"records": "*i64", "warps": 16, "fused": False}
    yield "select, final", select_kernel, GATHER | SEARCH | select | FINAL | {"exact": True}, few
    yield "select", select_kernel, GATHER | SEARCH | select | {"exact": False}, few
    store = TILE | OPEN | {"group": 16}
    yield "storing, 16 rows", storing_kernel, store | {"block_m": 16}, {"warps": 4}
    yield "storing, 64 rows", storing_kernel, store | {"block_m": 64}, {"warps": 4}
    yield "values", logits_kernel, GATHER | {"block": 64}, {"warps": 4, "fused": False}
    wide = {"dim": 576, "padded": 1024, "block": 8}
    yield "norms, d 576", key_norms_kernel, wide, {"warps": 4}
    stream = {"rest": 0, "edge": True, "scaled": True, "full": True, "top1": True}
    yield "statistics", statistics_kernel, TILE | CAUSAL | stream, {"stages": 2}
    alone = {"dim": 192, "rest": 64, "edge": False, "scaled": False, "full": False, "top1": False,
             "moments": None, "tops": None, "block_m": 256}  # fmt: skip
    yield "log-sum-exp, d 192", statistics_kernel, TILE | OPEN | alone, {"warps": 16, "stages": 2}
    heads = {"dim": 192, "rest": 64, "group": 16}
    yield "head sum, d 192", headsum_kernel, TILE | OPEN | heads, {"stages": 2}
    index = {"heads": 64, "padded_heads": 64, "block_q": 4, "dim": 128, "chunk": 128, "block_u": 64,
             "group": 16, "relu": True, "folded": True, "scaled": True, "window": 0,
             "precise": False}  # fmt: skip
    yield "index scores, fp8", lightning_kernel, index | OPEN, {
        "queries": "*fp8e4nv", "keys": "*fp8e4nv", "warps": 4}  # fmt: skip
    latent = {"share": 128, "block_h": 64, "block_k": 32, "dim": 512, "padded": 512, "tail": 64,
              "padded_tail": 64, "value_dim": 512, "padded_value": 512, "latent": True,
              "narrow": True}  # fmt: skip
    yield "sparse, MLA", sparse_kernel, latent, {"values": "*bf16", "stages": 2}


def built(name, kernel, constants, options):  # type: ignore[no-untyped-def]
    types, values, facts = {}, {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            types[argument], values[(place,)] = "constexpr", constants[argument]
            continue
        types[argument] = options.get(argument, TYPES.get(argument, "i32"))
        if types[argument].startswith("*") or argument in EVEN:
            facts[(place,)] = [["tt.divisibility", 16]]
    launch = {
        "num_warps": options.get("warps", 8), "num_stages": options.get("stages", 3),
        "enable_fp_fusion": options.get("fused", True),
    }  # fmt: skip
    made = compile(ASTSource(kernel, types, values, facts), target=HOPPER, options=launch)
    text = made.asm["ptx"]
    return {
        "name": name,
        "shared": made.metadata.shared,
        "wgmma": text.count("wgmma.mma_async"),
        "shuffles": text.count("shfl"),
        "popc": text.count("popc"),
        "scattered": text.count("@p st.global.v2.b32 ["),
        "conversions": made.asm["ttgir"].count("ttg.convert_layout"),
    }, text


if __name__ == "__main__":
    for case in cases():
        if sys.argv[1:] and sys.argv[1] not in case[0]:
            continue
        print(json.dumps(built(*case)[0]), flush=True)
