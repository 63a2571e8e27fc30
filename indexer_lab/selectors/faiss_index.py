"""Any index that FAISS can build, asked for the keys that each query would look up.

FAISS is imported when a selector is fitted, never before: it is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, Support
from indexer_probes.records import LayerRecord

FLOAT_BYTES = 4
LINK_BYTES = 4


@dataclass(frozen=True)
class Faiss:
    """A FAISS index over each key head's keys, searched by inner product.

    factory:  FAISS's own factory string: Flat, IVF256,PQ32, HNSW32, OPQ16,IVF64,PQ16, LSH, SQ8 …
    nprobe:   lists an IVF index visits, none for FAISS's default of 1.
    efSearch: candidates an HNSW index keeps, none for FAISS's default; it keeps k if that is more.
    seed:     of the clustering and of HNSW's levels.
    device:   cpu or gpu; gpu needs faiss-gpu, which serves at most 2048 keys a query.

    Causality: keys are added in order and a query is searched before any later key is added, so the
    index holds what a decode step's would. Centroids, codebooks and rotations are trained on all
    keys of the record, as for an index built after the prompt was read. A window is FAISS's own id
    filter where the index has one, else more is fetched and the hidden part dropped.
    IVF and HNSW may find fewer keys than asked for; the places left are -1.
    LSH ranks by Hamming distance of sign bits, the only order that FAISS gives it.
    """

    factory: str = "Flat"
    nprobe: int | None = None
    efSearch: int | None = None  # noqa: N815  FAISS's spelling
    seed: int = 1234
    device: Literal["cpu", "gpu"] = "cpu"

    def fit(self, record: LayerRecord) -> Ranker:
        keys = record.float_keys.detach().cpu().numpy()
        queries = record.queries.detach().float().cpu().numpy()
        for name, values in (("keys", keys), ("queries", queries)):
            if not np.isfinite(values).all():
                raise InputError(f"layer {record.layer}: {name} hold NaN or infinity")
        with _threads(_faiss()):
            indexes = [self._trained(np.ascontiguousarray(head)) for head in keys]
        return _FaissRanker(self, record, indexes, keys, queries)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """An exhaustive index reads each key head's codes once and spends one multiply-add a query
        head, key and dimension. IVF reads all centroids (float32) and nprobe / lists of the codes,
        the latter for each query head. HNSW expands max(efSearch, k) nodes, and for each reads its
        lowest layer's links (4 bytes) and, at most, every neighbour's code. A product quantiser
        spends a table of 256 (2**bits) rows of dim and one addition a sub-quantiser and key
        instead. Transforms and re-ranking are left out.
        """
        return _cost(self._made(record.queries.shape[-1]), record, budget)

    def _made(self, dim: int) -> Any:
        """An untrained index with every setting applied. Raises InputError."""
        faiss = _faiss()
        # FAISS defines LSH and nothing else we serve under L2 alone
        metric = faiss.METRIC_L2 if "LSH" in self.factory else faiss.METRIC_INNER_PRODUCT
        with _refusals(self.factory):
            index = faiss.index_factory(dim, self.factory, metric)
        for setting, value in (("nprobe", self.nprobe), ("efSearch", self.efSearch)):
            if value is not None:
                if value < 1:
                    raise InputError(f"faiss {self.factory!r}: {setting} = {value}; expected >= 1")
                with _refusals(f"{self.factory} with {setting}={value}"):
                    faiss.ParameterSpace().set_index_parameter(index, setting, value)
        return index

    def _trained(self, keys: np.ndarray) -> Any:
        faiss = _faiss()
        index = self._made(keys.shape[-1])
        _seed(index, self.seed)
        with _refusals(self.factory):
            index.train(keys)
            return _to_gpu(faiss, index) if self.device == "gpu" else index


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
            with _threads(_faiss()), _refusals(self.settings.factory):
                heads = [self._search(head, budget) for head in range(len(self.indexes))]
            support = torch.from_numpy(np.concatenate(heads))
            self._found[budget] = support.to(self.record.queries.device)
        return self._found[budget]

    def _search(self, head: int, budget: int) -> np.ndarray:
        """int64 [group, query, budget]: what the query heads of one key head find."""
        record, index = self.record, self.indexes[head]
        group = slice(head * record.group, (head + 1) * record.group)
        queries = np.ascontiguousarray(self.queries[group].swapaxes(0, 1))  # (query, group, dim)
        found = np.full((record.group, record.rows, budget), -1, dtype=np.int64)
        index.reset()
        _seed(index, self.settings.seed)  # HNSW draws levels as keys arrive
        held = 0
        for row, position in enumerate(record.positions.tolist()):
            if position >= held:
                index.add(np.ascontiguousarray(self.keys[head, held : position + 1]))
                held = position + 1
            first = max(0, held - record.mask.window) if record.mask.window else 0
            found[:, row] = _lookup(index, queries[row], budget, first, held)
        return found


def _lookup(index: Any, queries: np.ndarray, budget: int, first: int, held: int) -> np.ndarray:
    """int64 [query, budget]: keys found at positions first to held - 1, -1 where none was."""
    if first == 0:
        distances, found = index.search(queries, min(budget, held))
    else:
        distances, found = _search_from(index, queries, budget, first, held)
    order = -distances if _larger_is_nearer(index) else distances
    hidden = found < first  # -1 included
    if hidden.any() or (order[:, 1:] == order[:, :-1]).any():
        order = np.where(hidden, np.inf, order)
        places = np.lexsort((np.where(hidden, held, found), order), axis=-1)
        found = np.take_along_axis(np.where(hidden, -1, found), places, axis=-1)
    found = found[:, :budget]
    return np.pad(found, ((0, 0), (0, budget - found.shape[1])), constant_values=-1)


def _search_from(
    index: Any, queries: np.ndarray, budget: int, first: int, held: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and ids among which every key found in the window is: FAISS filters, or we must."""
    faiss = _faiss()
    parameters = _filtered(faiss, index, faiss.IDSelectorRange(first, held))
    try:
        return index.search(queries, min(budget, held - first), params=parameters)
    except RuntimeError:  # this type of index takes no filter
        return index.search(queries, min(budget + first, held))


def _filtered(faiss: ModuleType, index: Any, chosen: Any) -> Any:
    """Search parameters that keep the index's own settings and add an id filter."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _filtered(faiss, index.index, chosen)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=chosen, nprobe=index.nprobe)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=chosen, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=chosen)


def _larger_is_nearer(index: Any) -> bool:
    return bool(_faiss().is_similarity_metric(index.metric_type))


def _parts(faiss: ModuleType, index: Any) -> Iterator[Any]:
    """The index and all it is made of, as their own types."""
    index = faiss.downcast_index(index)
    yield index
    if isinstance(index, faiss.IndexPreTransform):
        for place in range(index.chain.size()):
            yield faiss.downcast_VectorTransform(index.chain.at(place))
        yield from _parts(faiss, index.index)
    if isinstance(index, faiss.IndexRefine):
        yield from _parts(faiss, index.base_index)
    if isinstance(index, faiss.IndexHNSW):
        yield from _parts(faiss, index.storage)


def _seed(index: Any, seed: int) -> None:
    """Sets every seed that FAISS lets one set, and lets it train on few keys without a warning."""
    faiss = _faiss()
    for part in _parts(faiss, index):
        if isinstance(part, faiss.OPQMatrix) and part.pq is None:
            part.pq = faiss.ProductQuantizer(part.d_out, part.M, 8)
            part.pq.this.disown()  # the matrix frees it
        for holder in (part, getattr(part, "pq", None)):
            clustering = getattr(holder, "cp", None)
            if clustering is not None:
                clustering.seed = seed
                clustering.min_points_per_centroid = 1
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.rng = faiss.RandomGenerator(seed)


def _cost(index: Any, record: LayerRecord, budget: int) -> Cost:
    faiss = _faiss()
    parts = list(_parts(faiss, index))
    heads, key_heads, keys = record.heads, record.keys.heads, record.length
    graph = next((part for part in parts if isinstance(part, faiss.IndexHNSW)), None)
    lists = next((part for part in parts if isinstance(part, faiss.IndexIVF)), None)
    body = parts[-1]
    read = float(key_heads * keys)  # codes
    met = float(heads * keys)  # products with a key
    extra_bytes = extra_adds = 0.0
    if lists is not None:
        read = met = heads * keys * min(1.0, lists.nprobe / lists.nlist)
        extra_bytes = float(key_heads * lists.nlist * lists.d * FLOAT_BYTES)
        extra_adds = float(heads * lists.nlist * lists.d)
    elif graph is not None:
        expanded = min(keys, max(graph.hnsw.efSearch, budget))
        links = expanded * graph.hnsw.nb_neighbors(0)
        read = met = float(heads * min(keys, links))
        extra_bytes = float(heads * links * LINK_BYTES)
    code = body.code_size if hasattr(body, "code_size") else body.sa_code_size()
    quantiser = getattr(body, "pq", None)
    per_key = body.d
    if quantiser is not None:
        per_key = quantiser.M
        extra_adds += float(heads * quantiser.ksub * body.d)
    return Cost(read * code + extra_bytes, met * per_key + extra_adds)


def _to_gpu(faiss: ModuleType, index: Any) -> Any:
    if not hasattr(faiss, "StandardGpuResources"):
        raise InputError(
            "faiss device=gpu: the installed FAISS was built without a GPU; install faiss-gpu "
            "(the gpu extra) or leave device out"
        )
    if not faiss.get_num_gpus():
        raise InputError("faiss device=gpu: FAISS finds no GPU on this machine; leave device out")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "selector 'faiss' needs FAISS: install the cpu extra (faiss-cpu) or the gpu extra"
        ) from error
    module: ModuleType = faiss
    return module


@contextmanager
def _threads(faiss: ModuleType) -> Iterator[None]:
    """FAISS on as many threads as torch, inside; its own setting again after."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """FAISS's exceptions as one line each, without its source locations."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("Error: ")[-1].split(" failed: ")[-1]
        raise InputError(f"faiss {what!r}: {' '.join(reason.split())}") from error
