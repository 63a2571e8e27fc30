"""FAISS on a GPU, through the same settings as on the CPU; needs faiss-gpu and a device."""

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.selectors import selector
from indexer_probes.records import LayerRecord, PlainKeys

faiss = pytest.importorskip("faiss")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not hasattr(faiss, "StandardGpuResources"), reason="this FAISS has no GPU"),
]


def record(keys=3000):
    draw = torch.Generator().manual_seed(3)
    return LayerRecord(
        layer=0,
        queries=torch.randn(4, 20, 64, generator=draw),
        keys=PlainKeys(torch.randn(2, keys, 64, generator=draw)),
        positions=torch.arange(keys - 20, keys),
        scale=0.125,
    )


def shared(one, other):
    """Share of each row's keys that two selections have in common, all rows together."""
    pairs = zip(one.flatten(0, 1).tolist(), other.flatten(0, 1).tolist(), strict=True)
    found = [len(set(left) & set(right)) / len(left) for left, right in pairs]
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("spelling", "least"),
    [
        ("faiss:Flat", 0.999),
        ("faiss:IVF16,Flat:nprobe=16", 0.999),
        ("faiss:IVF16,Flat:nprobe=4", 0.99),
        ("faiss:IVF16,PQ16:nprobe=16", 0.9),
        ("faiss:IVF16,SQ8:nprobe=16", 0.9),
    ],
)
def test_a_gpu_index_picks_what_the_cpu_index_picks(spelling, least):
    on_gpu = f"{spelling},device=gpu" if ":nprobe" in spelling else f"{spelling}:device=gpu"
    given = record()
    cpu = selector(spelling).fit(given).top(64)
    gpu = selector(on_gpu).fit(given).top(64)
    assert shared(cpu, gpu) >= least


def test_flat_on_a_gpu_is_exact():
    given = record()
    exact = selector("exact").fit(given).top(64)
    assert shared(exact, selector("faiss:Flat:device=gpu").fit(given).top(64)) >= 0.999


def test_a_type_without_a_gpu_form_is_refused_with_those_that_have_one():
    with pytest.raises(InputError, match=r"'PQ16': FAISS has no GPU form of it.*IVF…,PQ…"):
        selector("faiss:PQ16:device=gpu").fit(record())
