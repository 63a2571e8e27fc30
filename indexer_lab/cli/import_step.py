"""The import step: an engine's files and a capture in, a file for the selector `recorded` out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from indexer_lab import __version__
from indexer_lab.errors import InputError
from indexer_lab.positions import parse_layers
from indexer_lab.selections.fitting import Fitted, assign, fit
from indexer_lab.selections.payload import read
from indexer_lab.store.capture import open_capture
from indexer_lab.store.files import digest, written

MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Imported:
    """The file, and what was counted while it was made."""

    path: Path
    capture: Path
    ordered: bool
    native: bool
    counts: dict[str, int]

    def lines(self) -> Iterator[str]:
        """What to tell the user, what is odd first."""
        counts = self.counts
        for name, what in (
            ("future", "places hold a key that the query may not see"),
            ("repeated", "places hold a key that their row has already"),
            ("empty", "places are empty although the query sees enough keys"),
        ):
            if counts[name]:
                yield f"warning: {counts[name]:,} {what}; kept, and counted by score"
        yield (
            f"{counts['samples']} samples, {counts['layers']} layers, {counts['rows']:,} rows of "
            f"{counts['k']:,} keys are in {self.path}"
        )
        budget = "" if self.ordered else f" --budget {counts['k']}"
        native = "--selector native " if self.native else ""
        yield (
            f"score them with: indexer-lab score {self.capture} {native}--selector "
            f"recorded:{self.path}{budget} -o …"
        )


def import_step(
    *,
    capture: Path,
    files: tuple[Path, ...],
    layers: str | None = None,
    start: int = 0,
    indexer_layers: int | None = None,
    ordered: bool = False,
    output: Path | None = None,
    force: bool = False,
) -> Imported:
    """Reads, checks and writes; see `import-selection --help`. Nothing is written unless all of it
    fits."""
    taken = open_capture(capture)
    path = output or capture / "selections" / f"{files[0].stem}.safetensors"
    if path.suffix != ".safetensors":
        raise InputError(f"--output {path}: expected a name that ends in .safetensors")
    if path.exists() and not force:
        raise InputError(f"{path} stands there already; add --force or choose another --output")
    named = None if layers is None else parse_layers(layers, MOST_LAYERS)
    payloads = [payload for file in files for payload in read(file, indexer_layers)]
    fitted = list(fit(taken, assign(taken, payloads), named, start))
    tensors = {f"layer.{each.layer}.{each.mark}": each.picked for each in fitted}
    facts = {
        "indexer_lab": __version__,
        "capture": digest(taken.manifest),
        "files": [file.name for file in files],
        "ordered": ordered,
    }
    with written(path) as temporary:
        save_file(tensors, temporary, metadata={"selection": json.dumps(facts, sort_keys=True)})
    native = all(each.native for each in fitted)
    return Imported(path, capture, ordered, native, _counts(fitted))


def _counts(fitted: list[Fitted]) -> dict[str, int]:
    return {
        "samples": len({each.sample.id for each in fitted}),
        "layers": len({each.layer for each in fitted}),
        "rows": sum(len(each.picked) for each in fitted),
        "k": max(each.picked.shape[-1] for each in fitted),
        "future": sum(each.future for each in fitted),
        "repeated": sum(each.repeated for each in fitted),
        "empty": sum(each.empty for each in fitted),
    }
