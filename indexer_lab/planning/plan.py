"""Whether and how a capture fits, and what it will take: from a model's configuration alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from indexer_lab.capture_size import Kept, part_bytes, shared_bytes, state_bytes
from indexer_lab.capturing import limits_of
from indexer_lab.errors import InputError
from indexer_lab.planning.memory import Load, peak_bytes
from indexer_lab.planning.rates import rate_of
from indexer_lab.planning.weights import Weights, weights_of
from indexer_lab.planning.work import flops
from indexer_lab.positions import Positions

USABLE = 0.95  # of a device's memory; the rest goes to its context and to fragments
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Asked:
    """What a capture is to be.

    context: tokens a prompt. layers: numbers of those captured. device: cpu or cuda. devices: how
    many there are; memory: bytes that each has. disk_rate: bytes a second, None where unknown.
    """

    context: int
    prompts: int
    positions: Positions
    layers: list[int]
    values: bool
    witnesses: int
    itemsize: int
    device: str
    devices: int
    memory: int
    disk_rate: float | None = None


@dataclass(frozen=True)
class Way:
    """One way to run it. memory: bytes a device needs at its peak; flags: of the command line."""

    name: str
    devices: int
    memory: int
    fits: bool
    flags: str


@dataclass(frozen=True)
class Planned:
    """weights: bytes of the whole model as computed with; layer: of its largest layer; working:
    bytes above the weights at the peak of a prompt on one device; disk: bytes of the capture;
    beside: bytes that a streamed run keeps on disk as well while it goes on; checkpoint: bytes that
    a streamed run reads. seconds: of computing on one device, all prompts; at_least: that this is a
    least time, since the rate behind it is a ceiling. read_seconds: None without a disk rate."""

    weights: int
    layer: int
    working: int
    disk: int
    beside: int
    checkpoint: int
    seconds: float
    at_least: bool
    rate: str
    read_seconds: float | None
    ways: list[Way]

    @property
    def chosen(self) -> Way | None:
        """The first way that fits."""
        return next((way for way in self.ways if way.fits), None)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        chosen = self.chosen
        return {**asdict(self), "chosen": None if chosen is None else chosen.name}


def check(config: Any, asked: Asked) -> None:
    """Raises InputError for a plan that no capture can follow."""
    limit = limits_of(config).length
    if asked.context < 1:
        raise InputError(f"--context {asked.context}: a prompt has at least one token")
    if limit is not None and asked.context > limit:
        raise InputError(f"--context {asked.context}: the model takes {limit} tokens at most")
    for option, value in (("--prompts", asked.prompts), ("--gpus", asked.devices)):
        if value < 1:
            raise InputError(f"{option} {value}: expected 1 or more")
    if asked.memory <= 0:
        raise InputError("--gpu-memory: expected more than 0 GiB")
    if asked.disk_rate is not None and asked.disk_rate <= 0:
        raise InputError("--disk-rate: expected more than 0 GB/s")
    heads = config.get_text_config().num_attention_heads
    if heads % asked.devices:
        raise InputError(f"--gpus {asked.devices}: {heads} heads cannot be shared evenly")


def plan(config: Any, asked: Asked) -> Planned:
    """The plan of a capture. Raises InputError for one that cannot be."""
    check(config, asked)
    held = weights_of(config)
    size = asked.itemsize
    rate = rate_of(asked.device)
    passed = max(asked.layers) + 1  # a streamed run ends there; a whole model runs to its end
    work = asked.prompts * flops(config, asked.context, len(held.layers), _kernels(asked))
    checkpoint = (sum(held.layers[:passed]) + held.trunk) * _stored_size(config, size)
    return Planned(
        weights=held.total * size,
        layer=max(held.layers) * size,
        working=peak_bytes(config, _load(asked, 1)),
        disk=_disk(config, asked),
        beside=(asked.prompts + 1) * state_bytes(config, size, asked.context),
        checkpoint=int(checkpoint),
        seconds=work / rate.value,
        at_least=rate.ceiling,
        rate=f"{rate.value:.3g} {rate.unit}/s: {rate.where}",
        read_seconds=None if asked.disk_rate is None else checkpoint / asked.disk_rate,
        ways=_ways(config, asked, held),
    )


def _ways(config: Any, asked: Asked, held: Weights) -> list[Way]:
    """All ways there are, the quickest first."""
    size = asked.itemsize
    device = f"--device {asked.device}"
    alone = peak_bytes(config, _load(asked, 1))
    found = [_way("plain", 1, held.total * size + alone, asked, device)]
    if asked.devices > 1:
        count = asked.devices
        split = sum(held.layers) * size // count + held.trunk * size
        shared = split + peak_bytes(config, _load(asked, count))
        start = f"torchrun --nproc-per-node {count} -m indexer_lab capture --tensor-parallel"
        found.append(_way("tensor-parallel", count, shared, asked, start))
        spread = held.total * size // count + max(held.layers) * size + alone
        found.append(_way("device-map", count, spread, asked, "--device-map auto"))
    two = 2 * max(held.layers) * size + held.trunk * size + alone
    found.append(_way("streamed", 1, two, asked, f"--stream-layers {device}"))
    return found


def _way(name: str, devices: int, memory: int, asked: Asked, flags: str) -> Way:
    return Way(name, devices, int(memory), memory <= USABLE * asked.memory, flags)


def _load(asked: Asked, shards: int) -> Load:
    rows = len(asked.positions.rows(asked.context))
    return Load(
        asked.context, rows, asked.itemsize, asked.values, asked.witnesses, _kernels(asked), shards
    )


def _kernels(asked: Asked) -> bool:
    return asked.device.startswith("cuda")


def _disk(config: Any, asked: Asked) -> int:
    kept = Kept(asked.itemsize, asked.values, asked.witnesses)
    rows = len(asked.positions.rows(asked.context))
    part = part_bytes(config, kept, asked.context, rows)
    return len(asked.layers) * (asked.prompts * part + shared_bytes(config, kept))


def _stored_size(config: Any, size: int) -> float:
    """Bytes of a stored number: 1 where the checkpoint is quantised to FP8 blocks."""
    quantised = getattr(config, "quantization_config", None)
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    return 1.0 if method == "fp8" else float(size)
