"""FP8 in blocks: the fast reading against the format's definition, block after block."""

import pytest
import torch

from indexer_probes.errors import ProbeError
from indexer_probes.streaming.fp8 import BLOCK, block_of, dequantise

from .published import read_by_block


@pytest.mark.parametrize(
    "shape", [(128, 128), (256, 384), (1, 1), (129, 127), (576, 200), (40, 300)]
)
def test_the_definition_block_by_block(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape).to(torch.float8_e4m3fn)
    scale = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128)) + 0.01
    found = dequantise(weight, scale, (128, 128), torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, read_by_block(weight, scale))


def test_a_case_by_hand():
    weight = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 448.0]]).to(torch.float8_e4m3fn)
    scale = torch.tensor([[2.0, 10.0], [4.0, 0.5]])
    found = dequantise(weight, scale, (1, 2), torch.float32)
    assert found.tolist() == [[2.0, 4.0, 40.0], [2.0, -4.0, 224.0]]


def test_scales_that_are_powers_of_two_in_one_byte():
    weight = torch.ones(2, 2).to(torch.float8_e4m3fn)
    scale = torch.tensor([[0.25]]).to(torch.float8_e8m0fnu)
    assert dequantise(weight, scale, BLOCK, torch.float32).tolist() == [[0.25, 0.25]] * 2


def test_the_block_is_the_configuration_s():
    assert block_of({"quant_method": "fp8", "weight_block_size": [64, 32]}) == (64, 32)
    assert block_of({"quant_method": "fp8"}) == (128, 128)


@pytest.mark.parametrize("block", [128, [128], [128, 0], ["a", "b"], [128, 128, 1]])
def test_a_block_that_is_none(block):
    with pytest.raises(ProbeError, match="weight_block_size is"):
        block_of({"quant_method": "fp8", "weight_block_size": block})
