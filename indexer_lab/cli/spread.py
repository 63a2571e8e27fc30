"""The ways to run a model that is larger than one device; at most one of them at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexer_lab.errors import InputError


@dataclass(frozen=True)
class Spread:
    """How a model gets onto the machine. All off: whole, onto one device.

    decode: tokens that the capture is to generate.
    Raises InputError when two are asked for, or one that cannot decode.
    """

    stream_layers: bool = False
    device_map: str | None = None
    tensor_parallel: bool = False
    decode: int = 0

    def __post_init__(self) -> None:
        asked = {
            "--stream-layers": self.stream_layers,
            "--device-map": self.device_map is not None,
            "--tensor-parallel": self.tensor_parallel,
        }
        chosen = [option for option, wanted in asked.items() if wanted]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(chosen)} exclude each other: choose one of them")
        if self.decode and (self.stream_layers or self.tensor_parallel):
            raise InputError(
                f"{chosen[0]} and --decode exclude each other: a generated token needs all layers "
                "in one process"
            )

    def load(
        self, place: str, revision: str | None, dtype: str, device: str, trust_remote_code: bool
    ) -> Any:
        """The model, ready for a capture; see `indexer_probes.loading.load_model`."""
        if self.stream_layers:
            from indexer_probes.streaming.model import open_model

            return open_model(place, revision, dtype, device, trust_remote_code)
        if self.device_map is not None:
            from indexer_probes.spreading import load_mapped, read_device_map

            chosen = read_device_map(self.device_map)
            return load_mapped(place, chosen, revision, dtype, trust_remote_code)
        if self.tensor_parallel:
            from indexer_probes.spreading import load_parallel

            return load_parallel(place, revision, dtype, trust_remote_code)
        from indexer_probes.loading import load_model

        return load_model(place, revision, dtype, device, trust_remote_code)


WHOLE = Spread()
