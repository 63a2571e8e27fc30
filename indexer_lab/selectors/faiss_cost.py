"""What a FAISS look-up reads and computes, from the index's own parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexer_lab.selectors.base import Cost
from indexer_lab.selectors.faiss_engine import faiss_module, parts
from indexer_probes.records import LayerRecord

FLOAT_BYTES = 4
LINK_BYTES = 4


@dataclass(frozen=True)
class _Visit:
    """What a search touches before any code is decoded.

    codes: read from memory. products: met with a query. other: bytes and multiply-adds spent on
    finding those codes.
    """

    codes: float
    products: float
    other: Cost


def search_cost(index: Any, record: LayerRecord, budget: int) -> Cost:
    """The cost of one query, all heads: codes visited, each met by a multiply-add a dimension.

    A product quantiser spends a table of 2**bits rows of dim, then one addition a sub-quantiser and
    key, instead. The visit's own cost is added; transforms and re-ranking are left out.
    """
    made_of = list(parts(index))
    visit = _visit(made_of, record, budget)
    body = made_of[-1]
    code_bytes = body.code_size if hasattr(body, "code_size") else body.sa_code_size()
    quantiser = getattr(body, "pq", None)
    per_key, tables = body.d, 0.0
    if quantiser is not None:
        per_key, tables = quantiser.M, float(record.heads * quantiser.ksub * body.d)
    return Cost(
        bytes_read=visit.codes * code_bytes + visit.other.bytes_read,
        multiply_adds=visit.products * per_key + tables + visit.other.multiply_adds,
    )


def _visit(made_of: list[Any], record: LayerRecord, budget: int) -> _Visit:
    faiss = faiss_module()
    for part in made_of:
        if isinstance(part, faiss.IndexIVF):
            return _lists(part, record)
        if isinstance(part, faiss.IndexHNSW):
            return _graph(part.hnsw, record, budget)
    keys = record.length
    return _Visit(float(record.keys.heads * keys), float(record.heads * keys), Cost(0.0, 0.0))


def _lists(index: Any, record: LayerRecord) -> _Visit:
    """All centroids, read once a key head; nprobe / lists of the codes, for each query head."""
    codes = record.heads * record.length * min(1.0, index.nprobe / index.nlist)
    centroids = float(index.nlist * index.d)
    other = Cost(record.keys.heads * centroids * FLOAT_BYTES, record.heads * centroids)
    return _Visit(codes, codes, other)


def _graph(hnsw: Any, record: LayerRecord, budget: int) -> _Visit:
    """max(efSearch, budget) nodes expanded: their links and, at most, each neighbour's code."""
    expanded = min(record.length, max(hnsw.efSearch, budget))
    links = expanded * hnsw.nb_neighbors(0)
    codes = float(record.heads * min(record.length, links))
    return _Visit(codes, codes, Cost(float(record.heads * links * LINK_BYTES), 0.0))
