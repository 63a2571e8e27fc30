"""Any index that FAISS can build, asked for the keys that each query would look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, Support
from indexer_lab.selectors.faiss_cost import search_cost
from indexer_lab.selectors.faiss_engine import (
    faiss_module,
    make_quick,
    need_gpu,
    need_gpu_form,
    refusals,
    same_threads,
    set_seed,
    to_gpu,
)
from indexer_lab.selectors.faiss_follow import FaissFollower, arrays
from indexer_lab.selectors.faiss_grow import Growing
from indexer_probes.records import LayerRecord

SLOW = ("OPQ", "RQ", "LSQ")  # their training repeats a clustering up to hundreds of times
SLOW_KEYS = 8192


@dataclass(frozen=True)
class Faiss:
    """A FAISS index over each key head's keys, searched by inner product.

    factory:  FAISS's own factory string: Flat, IVF256,PQ32, HNSW32, OPQ16,IVF64,PQ16, LSH, SQ8 …
    nprobe:   lists an IVF index visits, none for FAISS's default of 1.
    efSearch: candidates an HNSW index keeps, none for FAISS's default; it keeps k if that is more.
    seed:     of the clustering and of HNSW's levels.
    device:   cpu or gpu; gpu needs faiss-gpu, which serves at most 2048 keys a query and has only
              Flat and IVF with Flat, PQ or SQ.

    Causality: keys are added in order and a query is searched before any later key is added, so the
    index holds what a decode step's would; types that take no key after the first batch (NSG) are
    refused. Centroids, codebooks and rotations are trained on all keys of the record, as for an
    index built after the prompt was read. A window is FAISS's own id filter where the index has
    one, else more is fetched and the hidden part dropped.
    Training: OPQ and the additive quantisers (RQ, LSQ, PRQ, PLSQ) learn from at most 8192 evenly
    spaced keys; all else from every key up to FAISS's own 256 a centroid. On one core and per key
    head, 2000 keys of dim 64 took 0.4 s for PQ16, 2 s for Pad128,PQ64 and RQ4x8, 5 s for
    OPQ16,IVF16,PQ16, and time grows with the keys: many sub-quantisers on long records take
    minutes. PQ16x4 trains a table of 16 in place of 256.
    IVF and HNSW may find fewer keys than asked for; the places left are -1.
    LSH ranks by Hamming distance of sign bits, the only order that FAISS gives it.
    """

    factory: str = "Flat"
    nprobe: int | None = None
    efSearch: int | None = None  # noqa: N815  FAISS's spelling
    seed: int = 1234
    device: Literal["cpu", "gpu"] = "cpu"

    def fit(self, record: LayerRecord) -> Ranker:
        keys = arrays(record, record.float_keys, "keys")
        queries = arrays(record, record.queries.float(), "queries")
        with same_threads():
            indexes = [self._placed(np.ascontiguousarray(head)) for head in keys]
        return _FaissRanker(self, record, indexes, keys, queries)

    def follow(self) -> FaissFollower:
        """Along a running sequence: trained on the prompt's keys and never again, each token's key
        added as it comes."""
        return FaissFollower(self.factory, self.device == "gpu", self._trained)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """An exhaustive index reads each key head's codes once and spends one multiply-add a query
        head, key and dimension. IVF reads all centroids (float32) and nprobe / lists of the codes,
        the latter for each query head. HNSW expands max(efSearch, k) nodes, and for each reads its
        lowest layer's links (4 bytes) and, at most, every neighbour's code. A product quantiser
        spends a table of 256 (2**bits) rows of dim and one addition a sub-quantiser and key
        instead. Transforms and re-ranking are left out.
        """
        return search_cost(self._made(record.queries.shape[-1]), record, budget)

    def _made(self, dim: int) -> Any:
        """An untrained index with every setting applied. Raises InputError."""
        faiss = faiss_module()
        # FAISS defines LSH and nothing else we serve under L2 alone
        metric = faiss.METRIC_L2 if "LSH" in self.factory else faiss.METRIC_INNER_PRODUCT
        with refusals(self.factory):
            index = faiss.index_factory(dim, self.factory, metric)
        for setting, value in (("nprobe", self.nprobe), ("efSearch", self.efSearch)):
            if value is None:
                continue
            if value < 1:
                raise InputError(f"faiss {self.factory!r}: {setting} = {value}; expected >= 1")
            with refusals(f"{self.factory} with {setting}={value}"):
                faiss.ParameterSpace().set_index_parameter(index, setting, value)
        return index

    def _placed(self, keys: np.ndarray) -> Any:
        """A trained index where it is to be searched. Raises InputError."""
        index = self._trained(keys)
        with refusals(self.factory):
            return to_gpu(index) if self.device == "gpu" else index

    def _trained(self, keys: np.ndarray) -> Any:
        """An empty index on the CPU, trained on keys float32 [key, dim]. Raises InputError."""
        index = self._made(keys.shape[-1])
        if self.device == "gpu":
            need_gpu()
            need_gpu_form(index, self.factory)
        make_quick(index)
        set_seed(index, self.seed)
        with refusals(self.factory):
            index.train(_sample(keys) if any(name in self.factory for name in SLOW) else keys)
        return index


def _sample(keys: np.ndarray) -> np.ndarray:
    """At most SLOW_KEYS of the keys, evenly spaced over the sequence."""
    count = min(len(keys), SLOW_KEYS)
    return keys[np.arange(count) * len(keys) // count]


class _FaissRanker:
    """Searches anew for each budget: FAISS's answer to a small k need not begin its larger one."""

    def __init__(
        self,
        settings: Faiss,
        record: LayerRecord,
        indexes: list[Any],
        keys: np.ndarray,
        queries: np.ndarray,
    ):
        self.settings = settings
        self.record = record
        self.indexes = indexes
        self.keys = keys
        self.queries = queries
        self._found: dict[int, Support] = {}

    def scores(self, rows: slice) -> None:
        return None

    def top(self, budget: int) -> Support:
        if budget not in self._found:
            with same_threads(), refusals(self.settings.factory):
                heads = [self._search(head, budget) for head in range(len(self.indexes))]
            support = torch.from_numpy(np.concatenate(heads))
            self._found[budget] = support.to(self.record.queries.device)
        return self._found[budget]

    def _search(self, head: int, budget: int) -> np.ndarray:
        """int64 [group, query, budget]: what the query heads of one key head find."""
        group, index = self.record.group, self.indexes[head]
        index.reset()
        set_seed(index, self.settings.seed)  # HNSW draws levels as keys arrive
        queries = self.queries[head * group : (head + 1) * group]
        return Growing(index).search(self.keys[head], queries, self.record, budget)
