"""The kernels compile for Hopper: no GPU is needed for that, only Triton's own tools.

They must use its matrix instruction, keep a tile's work inside threads, and fit the 227 KiB of
shared memory that a block may have; a launch on the GPU fails where they do not. No interpreter
shows any of that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
PROGRAM = Path(__file__).with_name("compiling.py")
SHARED = 227 * 1024
# kernels of a tile of products, and how many shuffles their text may hold: a span's few, the join
# of four lanes, but none for each of the tile's elements
TILES = {
    "maxima": 24, "maxima, d 576, causal": 24, "gate, causal": 24, "harvest": 4,
    "harvest, causal": 24, "harvest, d 576": 4, "statistics": 24, "log-sum-exp, d 192": 24,
}  # fmt: skip
MATRIX = (*TILES, "storing, 64 rows", "head sum, d 192", "index scores, fp8", "sparse, MLA")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    environment["PYTHONPATH"] = os.pathsep.join([str(KERNELS), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {made["name"]: made for made in map(json.loads, done.stdout.splitlines())}


def test_every_kernel_fits_a_block(compiled):
    assert [name for name, made in compiled.items() if made["shared"] > SHARED] == []


def test_products_take_the_matrix_instruction(compiled):
    assert [name for name in MATRIX if compiled[name]["wgmma"] == 0] == []


def test_nothing_is_exchanged_for_the_elements_of_a_tile(compiled):
    assert [name for name, most in TILES.items() if compiled[name]["shuffles"] > most] == []


def test_harvested_pairs_are_stored_from_registers(compiled):
    """Two predicated stores a pair, a popc for its rank; the counts alone change their layout."""
    made = compiled["harvest"]
    assert made["scattered"] == 32
    assert made["popc"] == 33
    assert made["conversions"] == 1
