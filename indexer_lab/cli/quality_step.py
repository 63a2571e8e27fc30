"""The quality step: a model and prompts in, quality rows out, resumable sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexer_lab import __version__, capturing
from indexer_lab.cli.options import numbers
from indexer_lab.cli.steps import Loaded, load_step
from indexer_lab.errors import InputError, unknown_name
from indexer_lab.positions import parse
from indexer_lab.progress import progress
from indexer_lab.quality.running import check_lengths, run
from indexer_lab.quality.trial import MODES, Protocol
from indexer_lab.scoring import check_budgets
from indexer_lab.selectors import selector
from indexer_lab.store.files import digest
from indexer_lab.store.quality import Quality, create

ENTROPY = "last:64"


def quality_step(
    *,
    model: str,
    output: Path,
    revision: str | None = None,
    prompts: Path | None = None,
    tasks: tuple[str, ...] = (),
    length: int = 2048,
    samples: int = 8,
    limit: int | None = None,
    selectors: tuple[str, ...] = (),
    budgets: str = "256",
    modes: tuple[str, ...] = (),
    tokens: int = 16,
    swap_layers: str | None = None,
    entropy: str = ENTROPY,
    batch: int = 1,
    baselines: bool = True,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> Quality:
    """Runs every sample that is not on disk yet; see `quality --help`.

    baselines: False leaves out what always runs beside the selectors, where a study has it already.
    """
    asked = modes or ("replay",)
    for mode in asked:
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
    for name, value in (("tokens", tokens), ("batch", batch)):
        if value < 1:
            raise InputError(f"--{name} {value}: expected 1 or more")
    rule = None if entropy == "none" else parse(entropy, seed, "--entropy")
    for label in selectors:
        selector(label)
    loaded = load_step(
        model, revision, prompts, tasks, length, samples, limit, swap_layers, device, dtype,
        trust_remote_code, seed, room=tokens,
    )  # fmt: skip
    limits = capturing.limits_of(loaded.model.config)
    check_lengths(loaded.encoded, tokens, limits.length)
    longest = max(len(prompt.ids) for prompt in loaded.encoded)
    swaps = () if swap_layers is None else loaded.layers
    protocol = Protocol(
        tuple(dict.fromkeys(asked)),
        tuple(selectors),
        check_budgets(numbers("--budget", budgets), longest + tokens),
        tuple(swaps),
        tokens,
        baselines,
    )
    facts = _manifest(loaded, model, revision, protocol, seed, entropy)
    quality = create(output, facts, resume, force)
    with progress("quality", len(loaded.encoded), quiet or as_json) as advance:
        run(loaded.model, loaded.tokenizer, loaded.encoded, protocol, quality, rule, batch, advance)
    return quality


def _manifest(
    loaded: Loaded,
    name: str,
    revision: str | None,
    protocol: Protocol,
    seed: int,
    entropy: str = "none",
) -> dict[str, Any]:
    """What identifies a run; the batch is not in it, since it changes no row."""
    import torch
    import transformers

    return {
        "indexer_lab": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "model": name,
        "revision": revision,
        "config_digest": digest(loaded.model.config.to_dict()),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": loaded.model.device.type,
        "modes": list(protocol.modes),
        "selectors": protocol.labels(),
        "budgets": list(protocol.budgets),
        "swap_layers": list(protocol.swaps),
        "tokens": protocol.tokens,
        "entropy": None if entropy == "none" else entropy,
        "seed": seed,
        "prompts_digest": digest([[p.info.id, p.ids.tolist(), p.given] for p in loaded.encoded]),
        "samples": len(loaded.encoded),
    }
