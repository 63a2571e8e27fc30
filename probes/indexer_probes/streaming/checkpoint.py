"""A sharded safetensors checkpoint: found without a download, checked without reading a weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from indexer_probes.errors import ProbeError
from indexer_probes.loading import named_folder
from indexer_probes.streaming.headers import Entry, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model on disk, by their names there."""

    folder: Path
    entries: Mapping[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries.values())

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold them, by name."""
        return sorted({entry.file for entry in self.entries.values()})


def checkpoint_folder(name: str, revision: str | None = None) -> Path:
    """The folder that holds a model: the named one, or its snapshot in the hub cache.

    Raises ProbeError when there is none; nothing is ever fetched for it.
    """
    if folder := named_folder(name):
        return folder
    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError as error:
        raise ProbeError(f"{name!r} is neither a folder nor a hub id ({error})") from error
    if not isinstance(config, str):
        at = f" at revision {revision!r}" if revision else ""
        raise ProbeError(
            f"{name!r}{at} is not in the hub cache, and streaming fetches nothing by itself; run "
            f"`hf download {name}` first, or name a local folder"
        )
    return Path(config).parent


def open_checkpoint(folder: Path) -> Checkpoint:
    """Every tensor that the folder's index names, each proven to lie whole in its file.

    Raises ProbeError for an index that cannot be followed, a file outside the folder, a missing
    or broken shard, and a tensor that is not where the index says.
    """
    if not (folder / INDEX).is_file():
        return Checkpoint(folder, read_header(_single(folder)))
    places = _weight_map(folder / INDEX)
    files = {shard: folder / _inside(folder, shard) for shard in sorted(set(places.values()))}
    absent = [shard for shard, file in files.items() if not file.is_file()]
    if absent:
        raise ProbeError(
            f"{folder} lacks {len(absent)} of {len(files)} shards (first: {absent[0]}); fetch the "
            "complete checkpoint"
        )
    shards = {shard: read_header(file) for shard, file in files.items()}
    for name, shard in places.items():
        if name not in shards[shard]:
            raise ProbeError(
                f"{folder / INDEX} places {name} in {shard}, which does not hold it; index and "
                "shards are of different checkpoints: fetch both again"
            )
    return Checkpoint(folder, {name: shards[shard][name] for name, shard in places.items()})


def _single(folder: Path) -> Path:
    file = folder / SINGLE
    if not file.is_file():
        raise ProbeError(
            f"{folder} holds neither {INDEX} nor {SINGLE}; only safetensors can be streamed"
        )
    return file


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProbeError(f"{index} cannot be read as JSON ({error}); fetch it again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ProbeError(f"{index} holds no weight_map of tensors to shards; fetch it again")
    strange = [name for name, shard in places.items() if not isinstance(shard, str) or not shard]
    if strange:
        raise ProbeError(f"{index} names no shard for {strange[0]}; fetch it again")
    return places


def _inside(folder: Path, shard: str) -> PurePosixPath:
    """The shard's path below the folder. A link there may lead out of it, as in the hub cache."""
    path = PurePosixPath(shard)
    if path.is_absolute() or ".." in path.parts or "\\" in shard or "\0" in shard:
        raise ProbeError(
            f"{folder / INDEX} names {shard!r}, a file outside the checkpoint's folder; do not use "
            "this checkpoint unless you know who made it"
        )
    return path
