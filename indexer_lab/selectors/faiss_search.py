"""One look-up in a FAISS index that may only answer with the keys of a window."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from indexer_lab.selectors.faiss_engine import faiss_module


def lookup(index: Any, queries: np.ndarray, budget: int, first: int, held: int) -> np.ndarray:
    """int64 [query, budget]: keys found at positions first to held - 1, -1 where none was.

    queries: float32 [query, dim]. held: keys in the index. Nearest first, the lowest position
    first among equal distances.
    """
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
    faiss = faiss_module()
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
    return bool(faiss_module().is_similarity_metric(index.metric_type))
