"""The hidden states of every prompt at the last layer it passed, so that a stopped run goes on.

One file a prompt, `states/<sample>/before-<layer>.safetensors`: what the layer before gave, whole
or absent. A family may pass on more than one tensor; the file keeps whatever nesting it has.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.store import records
from indexer_lab.store.capture import SampleInfo
from indexer_lab.store.files import written
from indexer_probes.records import IndexerRecord, LayerRecord


class States:
    """The folder of a capture that is still on its way through the layers."""

    def __init__(self, folder: Path):
        self.folder = folder

    def reached(self, sample: SampleInfo, most: int) -> int:
        """The layer, `most` at most, from which this prompt can go on; 0 for its beginning."""
        names = (
            re.fullmatch(r"before-(\d+)\.safetensors", path.name) for path in self._all(sample)
        )
        return max((int(n[1]) for n in names if n and int(n[1]) <= most), default=0)

    def save(self, sample: SampleInfo, layer: int, state: Any) -> None:
        """Keeps what `layer` is to be given, and forgets what earlier ones were."""
        tensors: dict[str, Tensor] = {}
        form = json.dumps(_taken_apart(state, tensors))
        with written(self._path(sample, layer)) as temporary:
            save_file(tensors, temporary, metadata={"form": form})
        for path in self._all(sample):
            if path != self._path(sample, layer):
                path.unlink()

    def load(self, sample: SampleInfo, layer: int, device: torch.device) -> Any:
        """What `layer` is to be given, on this device; None for layer 0. In memory of its own: the
        file's is not aligned, and a CPU's sums depend on that.

        Raises InputError for a damaged file.
        """
        if layer == 0:
            return None
        path = self._path(sample, layer)
        try:
            with safe_open(path, framework="pt") as handle:
                names = handle.keys()
                tensors = {name: handle.get_tensor(name).to(device, copy=True) for name in names}
                return _put_together(json.loads(handle.metadata()["form"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({error}); delete it and run the capture with --resume"
            ) from error

    def keep_source(self, sample: SampleInfo, record: LayerRecord) -> None:
        """Keeps the record of a layer whose selection later layers may reuse."""
        part, shared = self._source(sample, record.layer)
        records.save(record, part, shared)

    def source(self, sample: SampleInfo, layer: int) -> IndexerRecord | None:
        """The last indexer before this layer, named as its source; None where it chose nothing."""
        found = self.folder.glob(f"{sample.folder}/source-*.safetensors")
        known = [int(path.stem.rpartition("-")[2]) for path in found]
        earlier = max((number for number in known if number < layer), default=None)
        if earlier is None:
            return None
        indexer = records.load(*self._source(sample, earlier)).indexer
        return indexer and replace(indexer, source=earlier)

    def _source(self, sample: SampleInfo, layer: int) -> tuple[Path, Path]:
        folder = self.folder / sample.folder
        name = f"{layer:02d}.safetensors"
        return folder / f"source-{name}", folder / f"shared-{name}"

    def forget(self, sample: SampleInfo) -> None:
        """Removes what is kept of a prompt, and the folder with the last one."""
        shutil.rmtree(self.folder / sample.folder, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, sample: SampleInfo, layer: int) -> Path:
        return self.folder / sample.folder / f"before-{layer:02d}.safetensors"

    def _all(self, sample: SampleInfo) -> list[Path]:
        return sorted((self.folder / sample.folder).glob("before-*.safetensors"))


def sharing(
    states: States,
    sample: SampleInfo,
    reuses: bool,
    keep: Callable[[LayerRecord], None] | None,
) -> Callable[[LayerRecord], None]:
    """Completes the record of a layer that reuses a selection, whose source is in memory no more,
    and keeps the record of one that may be a source. keep: what a wanted record goes on to."""

    def completed(record: LayerRecord) -> None:
        if reuses:
            record = replace(record, indexer=states.source(sample, record.layer))
        else:
            states.keep_source(sample, record)
        if keep is not None:
            keep(record)

    return completed


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, its tensors (on the host, each with memory of its own) set aside."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):03d}"
        order = sorted(range(value.ndim), key=lambda axis: (-value.stride()[axis], axis))
        laid = value.detach().permute(order).to("cpu")
        tensors[name] = laid.clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "order": order}
    if isinstance(value, tuple | list):
        return {"tuple": [_taken_apart(each, tensors) for each in value]}
    if isinstance(value, Mapping):
        return {"dict": {str(key): _taken_apart(each, tensors) for key, each in value.items()}}
    return {"value": value}


def _put_together(form: Any, tensors: dict[str, Tensor]) -> Any:
    (kind, content), *more = form.items()
    if kind == "tensor":  # with the strides that it had, for other ones sum in another order
        order = dict(more)["order"]
        return tensors[content].permute([order.index(axis) for axis in range(len(order))])
    if kind == "tuple":
        return tuple(_put_together(each, tensors) for each in content)
    if kind == "dict":
        return {key: _put_together(each, tensors) for key, each in content.items()}
    return content
