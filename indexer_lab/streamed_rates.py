"""What a streamed capture took, told as rates that can be held against the disk's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from indexer_probes.streaming.model import LayerTimes


def layer_line(times: Sequence[LayerTimes]) -> str:
    """What the last layer read and took, for a progress bar; "" before the first is through."""
    if not times:
        return ""
    last = times[-1]
    return f"layer {last.layer}: {_rate(last.bytes, last.read_seconds)}, {last.seconds:.1f} s"


def facts(times: Sequence[LayerTimes], disk_rate: float, layers: int) -> dict[str, Any]:
    """The whole run in numbers.

    disk_rate: bytes a second of plain reads, measured in the same run. layers: of the model.
    returns: rates in GB/s, seconds a layer, hours for all layers of the model at that pace.
    """
    read, size = sum(t.read_seconds for t in times), sum(t.bytes for t in times)
    wall = sum(t.seconds for t in times)
    count = max(len(times), 1)
    return {
        "layers": len(times),
        "bytes": size,
        "read_gb_per_s": size / read / 1e9 if read else 0.0,
        "end_to_end_gb_per_s": size / wall / 1e9 if wall else 0.0,
        "disk_gb_per_s": disk_rate / 1e9,
        "seconds_per_layer": wall / count,
        "waited_seconds_per_layer": sum(t.waited_seconds for t in times) / count,
        "fill_seconds_per_layer": sum(t.fill_seconds for t in times) / count,
        "compute_seconds_per_layer": sum(t.compute_seconds for t in times) / count,
        "model_layers": layers,
        "model_hours": wall / count * layers / 3600,
    }


def summary(told: dict[str, Any]) -> str:
    """One line for the terminal."""
    if not told["layers"]:
        return "no layer had to be streamed: the capture was whole"
    return (
        f"streamed {told['layers']} layers, {told['bytes'] / 1e9:.1f} GB: read at "
        f"{told['read_gb_per_s']:.2f} GB/s, {told['end_to_end_gb_per_s']:.2f} GB/s with all else "
        f"(disk alone {told['disk_gb_per_s']:.2f}); {told['seconds_per_layer']:.2f} s a layer "
        f"(waiting {told['waited_seconds_per_layer']:.2f}, filling "
        f"{told['fill_seconds_per_layer']:.2f}, computing "
        f"{told['compute_seconds_per_layer']:.2f}), so {told['model_hours']:.2g} h for all "
        f"{told['model_layers']} layers"
    )


def _rate(size: int, seconds: float) -> str:
    return f"{size / seconds / 1e9:.2f} GB/s" if seconds else "nothing read"
