"""A capture on disk: manifest.json, samples.jsonl, one safetensors file a sample and layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from indexer_lab.errors import InputError
from indexer_lab.store import records
from indexer_lab.store.files import claim, folder_name, read_json, written
from indexer_probes.records import LayerRecord

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SampleInfo:
    """One prompt of a capture.

    length:  tokens.
    needles: token spans (first, one past the last) that hold what the answer needs.
    tokens:  digest of its token ids; "" in captures that do not say.
    """

    id: str
    task: str
    length: int
    answer: str = ""
    needles: list[list[int]] = field(default_factory=list)
    tokens: str = ""

    @property
    def folder(self) -> str:
        return folder_name(self.id)


@dataclass(frozen=True)
class Capture:
    """A capture folder, opened for reading or for more parts."""

    path: Path
    manifest: dict[str, Any]
    samples: list[SampleInfo]

    @property
    def layers(self) -> list[int]:
        return list(self.manifest["layers"])

    def part(self, sample: SampleInfo, layer: int) -> Path:
        return self.path / "samples" / sample.folder / f"layer-{layer:02d}.safetensors"

    def shared(self, layer: int) -> Path:
        return self.path / "layers" / f"layer-{layer:02d}.safetensors"

    def generated(self, sample: SampleInfo) -> Path:
        """The ids that were generated after the prompt, of a capture with decode steps."""
        return self.path / "samples" / sample.folder / "generated.json"

    def missing(self, sample: SampleInfo) -> list[int]:
        """The layers of a sample that are not on disk yet."""
        return [layer for layer in self.layers if not self.part(sample, layer).exists()]

    def save(self, sample: SampleInfo, record: LayerRecord) -> None:
        records.save(record, self.part(sample, record.layer), self.shared(record.layer))

    def record(self, sample: SampleInfo, layer: int) -> LayerRecord:
        """One layer record on the CPU, from which the sample's other layers can be read too.

        Raises InputError for a layer that was not captured and for a missing or damaged file.
        """
        if layer not in self.layers:
            have = ", ".join(map(str, self.layers))
            raise InputError(f"layer {layer} was not captured; captured are {have}")
        record = records.load(self.part(sample, layer), self.shared(layer))
        return replace(record, layers=partial(self.record, sample))

    def parts(self) -> Iterator[tuple[SampleInfo, int]]:
        """Every sample and layer, in the order of capture."""
        return ((sample, layer) for sample in self.samples for layer in self.layers)


def create(
    path: Path,
    manifest: dict[str, Any],
    samples: list[SampleInfo],
    resume: bool = False,
    force: bool = False,
) -> Capture:
    """A capture folder to write into; the same one again when resuming.

    Raises InputError when the folder holds something else, with the differing fields named.
    """
    manifest = {"schema_version": SCHEMA_VERSION, **manifest}
    claim(path, "manifest.json", manifest, resume, force)
    with written(path / "samples.jsonl") as temporary:
        lines = [json.dumps(asdict(sample), sort_keys=True) for sample in samples]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Capture(path, manifest, samples)


def open_capture(path: Path) -> Capture:
    """A capture to read. Raises InputError when it is none, is of another schema version, or is
    unfinished (the first missing part is named)."""
    if not path.is_dir():
        raise InputError(f"no capture at {path}: that folder does not exist")
    manifest = read_json(path / "manifest.json", "capture")
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version!r}, this version reads {SCHEMA_VERSION}: capture "
            "again, or use the indexer-lab that wrote it"
        )
    capture = Capture(path, manifest, read_samples(path / "samples.jsonl"))
    for sample in capture.samples:
        if absent := capture.missing(sample):
            raise InputError(
                f"{path} is unfinished: sample {sample.id!r} lacks layer {absent[0]}; finish it "
                "with capture --resume"
            )
    return capture


def read_samples(path: Path) -> list[SampleInfo]:
    """The prompts of a samples.jsonl. Raises InputError when it is absent or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [SampleInfo(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        raise InputError(f"{path} is missing: this capture was not begun properly") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); capture again with --force") from error
