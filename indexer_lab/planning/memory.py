"""The most memory that one prompt's capture holds above the weights, by the configuration alone.

Each function is a phase of a layer; what is counted are the tensors that are alive at once in it,
as the model's own code and the probes make them. Bytes throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexer_lab.planning.weights import head_dim, intermediate, key_heads

FLOAT32, INT64, INT32 = 4, 8, 4
PIECE_BYTES = 16 << 20  # as indexer_probes.records.CHUNK_BYTES
SCORE_BYTES = 1 << 20  # as indexer_probes.postponed.CHUNK_BYTES
CUDA_SCORE_BYTES = 256 << 20  # as indexer_probes.records.CUDA_CHUNK_BYTES
WITNESS_BYTES = 1 << 30  # as indexer_probes.attention.WITNESS_BYTES
WORKSPACE = 800 << 20  # as indexer_kernels.operands.WORKSPACE
ROWS, ENGINE_ROWS = 512, 2048  # as indexer_probes.chunks


@dataclass(frozen=True)
class Load:
    """One prompt's capture.

    length: tokens; rows: query rows kept. itemsize: bytes of a number of the model's dtype.
    kernels: an engine answers the indexer's topk and the attention over it. shards: processes that
    share the heads.
    """

    length: int
    rows: int
    itemsize: int
    values: bool
    witnesses: int
    kernels: bool
    shards: int = 1


def peak_bytes(config: Any, load: Load) -> int:
    """The most that is alive above the weights while a prompt is captured."""
    text = config.get_text_config()
    if text.model_type == "deepseek_v32":
        return _in_chunks(text, load)
    return _whole(text, load)


def _in_chunks(text: Any, load: Load) -> int:
    """A family whose layers take a prompt in chunks."""
    rows = min(ENGINE_ROWS if load.kernels else ROWS, load.length)
    streams = 3 if text.num_hidden_layers > 1 else 2  # the embedding stays while layers hand on
    if rows == load.length:
        streams -= 1
    held = streams * load.length * text.hidden_size * load.itemsize + _gathered(text, load)
    chunk = 2 * rows * text.hidden_size * load.itemsize  # what goes round attention, and its norm
    phases = [
        chunk + _chunk_attention(text, load, rows),
        chunk + 3 * rows * _widest(text) * load.itemsize,
        3 * rows * text.hidden_size * FLOAT32,  # a norm in float32
        _record(text, load),
    ]
    return int(held + _kept(text, load) + max(phases))


def _kept(text: Any, load: Load) -> int:
    """The kept rows' queries, index queries as the indexer widened them, and selection."""
    heads = text.num_attention_heads // load.shards
    queries = heads * head_dim(text) * load.itemsize
    index = text.index_n_heads * (text.index_head_dim + 1) * FLOAT32
    return int(load.rows * (queries + index + min(text.index_topk, load.length) * INT64))


def _gathered(text: Any, load: Load) -> int:
    """What grows with the prompt inside a layer: latents, index keys, and without an engine the
    expanded keys and values."""
    latent = (text.kv_lora_rank + text.qk_rope_head_dim) * load.itemsize
    index = text.index_head_dim * (load.itemsize + FLOAT32)  # and as the indexer widens them
    heads = text.num_attention_heads // load.shards
    expanded = 0 if load.kernels else heads * (head_dim(text) + text.v_head_dim) * load.itemsize
    return int(load.length * (latent + index + expanded))


def _chunk_attention(text: Any, load: Load, rows: int) -> int:
    """The last chunk, which sees every key."""
    heads, size = text.num_attention_heads // load.shards, load.itemsize
    queries = 2 * rows * heads * head_dim(text) * size
    expanded = rows * heads * (head_dim(text) + text.qk_nope_head_dim + text.v_head_dim) * size
    indexer = rows * text.index_n_heads * text.index_head_dim * FLOAT32
    masks = 2 * rows * load.length  # booleans: the model's, and the same turned round
    picked = min(text.index_topk, load.length)
    common = queries + expanded + indexer + masks + rows * picked * (INT64 + INT32)
    if load.kernels:
        return common + max(_engine_topk(text, load, rows), _engine_attention(text, load, rows))
    piece = min(rows, max(16, PIECE_BYTES // (FLOAT32 * heads * load.length)))
    marks = piece * (3 * picked * INT64 + load.length)
    return int(common + marks + rows * heads * text.v_head_dim * size)


def _engine_topk(text: Any, load: Load, rows: int) -> int:
    """lightning_topk: scores of as many rows as its workspace takes, and operands laid out anew."""
    picked = min(text.index_topk, load.length)
    a_row = FLOAT32 * load.length * 17 // 16 + INT64 * min(load.length, 16 * picked)
    operands = 2 * rows * text.index_n_heads * text.index_head_dim * load.itemsize
    answer = rows * picked * (FLOAT32 + INT64)
    return int(min(rows * a_row, max(WORKSPACE, 16 * a_row)) + operands + 2 * answer)


def _engine_attention(text: Any, load: Load, rows: int) -> int:
    """sparse_latent_attention: absorbed queries, mixed latents in float32 and narrowed again."""
    heads = text.num_attention_heads // load.shards
    latents = rows * heads * text.kv_lora_rank * (2 * load.itemsize + FLOAT32)
    return int(latents + 2 * rows * heads * text.v_head_dim * load.itemsize)


def _record(text: Any, load: Load) -> int:
    """A record's own copies, and a witness over some heads' expanded keys."""
    heads, size = text.num_attention_heads // load.shards, load.itemsize
    latent = load.length * (text.kv_lora_rank + text.qk_rope_head_dim) * size
    index = load.length * text.index_head_dim * size
    picked = load.rows * min(text.index_topk, load.length) * INT64
    index += load.rows * text.index_n_heads * text.index_head_dim * size
    up = heads * (text.qk_nope_head_dim + (text.v_head_dim if load.values else 0))
    proof = _witness(load, heads, head_dim(text), text.qk_nope_head_dim)
    return int(latent + index + picked + up * text.kv_lora_rank * size + proof)


def _witness(load: Load, heads: int, dim: int, copied: int) -> int:
    """Eager weights of the witness rows: some heads' keys, and their logits on the way."""
    if not load.witnesses or not load.rows:
        return 0
    a_head = load.length * dim * load.itemsize
    group = min(heads, max(1, WITNESS_BYTES // a_head))
    rows = min(load.witnesses, load.rows) * load.length
    made = group * rows * (FLOAT32 + 2 * load.itemsize)
    return int(group * load.length * (dim + copied) * load.itemsize + made + heads * rows * FLOAT32)


def _whole(text: Any, load: Load) -> int:
    """A family whose layers take a prompt at once."""
    size, hidden = load.itemsize, text.hidden_size
    heads, dim = text.num_attention_heads // load.shards, head_dim(text)
    narrow = max(1, key_heads(text) // load.shards) * dim
    held = load.length * (2 * hidden + 2 * dim) * size  # embedding, residual; cosines and sines
    attention = load.length * (hidden + 3 * heads * dim + 4 * narrow) * size
    feed_forward = load.length * (2 * hidden + 3 * _widest(text)) * size
    norm = load.length * hidden * (2 * FLOAT32 + size)
    kept = narrow * load.length * (2 if load.values else 1) * size + load.rows * heads * dim * size
    repeated = 2 * heads * dim * load.length * size if narrow < heads * dim else 0
    rows = min(load.witnesses, load.rows) * load.length
    proof = repeated + heads * rows * (2 * FLOAT32 + size) if load.witnesses else 0
    record = load.length * (hidden + heads * dim + 2 * narrow) * size + kept + proof
    return int(held + max(attention, feed_forward, norm, record))


def _widest(text: Any) -> int:
    return max(intermediate(text, layer) for layer in range(text.num_hidden_layers))
