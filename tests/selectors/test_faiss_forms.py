"""Which FAISS types may ask for a GPU: said before anything is trained, and without one."""

import pytest

from indexer_lab.errors import InputError
from indexer_lab.selectors.faiss_engine import need_gpu_form

faiss = pytest.importorskip("faiss")


def index(factory):
    return faiss.index_factory(64, factory, faiss.METRIC_L2)


@pytest.mark.parametrize(
    "factory",
    ["Flat", "IVF16,Flat", "IVF16,PQ16", "IVF16,SQ8", "PCA8,Flat", "OPQ16,IVF16,PQ16"],
)
def test_a_type_with_a_gpu_form_passes(factory):
    need_gpu_form(index(factory), factory)


@pytest.mark.parametrize(
    "factory",
    ["PQ16", "SQ8", "HNSW8", "IVF16,PQ16x4fs", "IVF16,PQ16+16", "PQ16,RFlat", "Flat,RFlat"],
)
def test_any_other_type_is_refused_and_the_known_ones_named(factory):
    with pytest.raises(InputError) as refused:
        need_gpu_form(index(factory), factory)
    text = str(refused.value)
    assert factory in text
    assert "IVF…,SQ…" in text
    assert "\n" not in text
