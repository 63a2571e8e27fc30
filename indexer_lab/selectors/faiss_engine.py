"""FAISS as a library that behaves: its threads, its seeds, its parts and its refusals.

FAISS is imported when a selector is fitted, never before: it is an optional dependency.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from indexer_lab.errors import InputError

PLACE = re.compile(r"^Error in .*? at \S+:\d+: ", re.DOTALL)  # a C++ signature, file and line
METHOD = re.compile(r"^\w+(?:::\w+)+:\s*")  # a C++ name that opens some messages
GPU_FORMS = {
    "IndexFlat": "Flat",
    "IndexIVFFlat": "IVF…,Flat",
    "IndexIVFPQ": "IVF…,PQ…",
    "IndexIVFScalarQuantizer": "IVF…,SQ…",
}
"""FAISS class -> its spelling in a factory string: what has a GPU form."""
BROKEN = re.compile(r"^(?:Error: )?'(?P<rule>.*?)' failed:?\s*(?P<reason>.*)$", re.DOTALL)


def faiss_module() -> ModuleType:
    """FAISS itself. Raises InputError when it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "selector 'faiss' needs FAISS: install the cpu extra (faiss-cpu) or the gpu extra"
        ) from error
    module: ModuleType = faiss
    return module


@contextmanager
def same_threads() -> Iterator[None]:
    """FAISS on as many threads as torch, inside; its own setting again after."""
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """FAISS's exceptions as InputError, one sentence each, without its source locations."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"faiss {what!r}: {plain_reason(str(error))}") from error


def plain_reason(text: str) -> str:
    """What a FAISS exception says, less the C++ signature, file, line and broken condition.

    The condition stays where FAISS gives no other reason.
    """
    reason = PLACE.sub("", text.strip())
    broken = BROKEN.match(reason)
    if broken:
        reason = broken["reason"] or f"FAISS needs {broken['rule']} here"
    return (
        " ".join(METHOD.sub("", reason).split()) or "FAISS refuses this index and gives no reason"
    )


def parts(index: Any) -> Iterator[Any]:
    """The index and all it is made of, as their own types; what holds the codes comes last."""
    faiss = faiss_module()
    index = faiss.downcast_index(index)
    yield index
    if isinstance(index, faiss.IndexPreTransform):
        for place in range(index.chain.size()):
            yield faiss.downcast_VectorTransform(index.chain.at(place))
        yield from parts(index.index)
    if isinstance(index, faiss.IndexRefine):
        yield from parts(index.base_index)
    if isinstance(index, faiss.IndexHNSW):
        yield from parts(index.storage)


def set_seed(index: Any, seed: int) -> None:
    """Sets every seed that FAISS lets one set."""
    faiss = faiss_module()
    for part in parts(index):
        for clustering in _clusterings(part):
            clustering.seed = seed
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.rng = faiss.RandomGenerator(seed)


def make_quick(index: Any) -> None:
    """Lets it train on few keys without a warning, and skips work whose result is never read."""
    faiss = faiss_module()
    for part in parts(index):
        if isinstance(part, faiss.OPQMatrix) and part.pq is None:
            part.pq = faiss.ProductQuantizer(part.d_out, part.M, 8)
            part.pq.this.disown()  # the matrix frees it
        for clustering in _clusterings(part):
            clustering.min_points_per_centroid = 1
        if hasattr(part, "do_polysemous_training"):
            # It renumbers the codes for a Hamming filter that no search here asks for, by
            # simulated annealing: over a second a sub-quantiser, with the same keys found.
            part.do_polysemous_training = False


def _clusterings(part: Any) -> Iterator[Any]:
    for holder in (part, *(getattr(part, name, None) for name in ("pq", "rq", "prq"))):
        clustering = getattr(holder, "cp", None)
        if clustering is not None:
            yield clustering


def need_gpu() -> None:
    """Raises InputError when this FAISS cannot reach a GPU."""
    faiss = faiss_module()
    if not hasattr(faiss, "StandardGpuResources"):
        raise InputError(
            "faiss device=gpu: the installed FAISS was built without a GPU; install faiss-gpu "
            "(the gpu extra) or leave device out"
        )
    if not faiss.get_num_gpus():
        raise InputError("faiss device=gpu: FAISS finds no GPU on this machine; leave device out")


def need_gpu_form(index: Any, factory: str) -> None:
    """Raises InputError for a type that FAISS cannot put on a GPU, before anything is trained."""
    faiss = faiss_module()
    *around, core = parts(index)
    passed_on = (faiss.IndexPreTransform, faiss.VectorTransform)
    plain = all(isinstance(part, passed_on) for part in around)
    if not plain or type(core).__name__ not in GPU_FORMS:  # a subclass would lose what it adds
        raise InputError(
            f"faiss {factory!r}: FAISS has no GPU form of it; on a GPU it has "
            f"{', '.join(GPU_FORMS.values())}, also behind PCA or OPQ. Use one of these, or leave "
            "device=gpu out"
        )


def to_gpu(index: Any) -> Any:
    """The trained index on the first GPU."""
    faiss = faiss_module()
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
