"""Measured rates that a plan's times are made of, each with where it was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """value: of `unit` a second. ceiling: nothing of ours was timed at it, so that a time made of
    it is a least time. where: machine and run."""

    value: float
    unit: str
    ceiling: bool
    where: str


CPU = Rate(
    value=32e9,
    unit="FLOP",
    ceiling=False,
    where="capture of needle-dsa at 8192 tokens (384 GFLOP), 12.0 s of one core's time, AMD "
    "EPYC with AVX-512, torch 2.13",
)
GPU = Rate(
    value=754e12,
    unit="FLOP",
    ceiling=True,
    where="bfloat16 matrix products of torch 2.11 on one H200; no capture has been timed on a GPU "
    "with this version",
)
"""Work that a device does, counted as `work.flops` counts it."""


def rate_of(device: str) -> Rate:
    """The rate for a device name as `--device` takes it."""
    return CPU if device.startswith("cpu") else GPU
