"""Runs the Triton kernels in Triton's interpreter where there is no GPU."""

from collections.abc import Iterator

import pytest
import torch

from ..interpreter import interpreting


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    with interpreting():
        yield


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
