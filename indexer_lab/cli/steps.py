"""The steps that commands and the demo share: each takes plain settings and shows progress."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer_lab import capturing
from indexer_lab.cli.spread import WHOLE, Spread
from indexer_lab.errors import InputError, unknown_name
from indexer_lab.positions import parse
from indexer_lab.progress import progress
from indexer_lab.prompts import Prompt, read
from indexer_lab.store.capture import Capture

if TYPE_CHECKING:
    from indexer_lab.tasks import Sample


def capture_step(
    *,
    model: str,
    output: Path,
    revision: str | None = None,
    prompts: Path | None = None,
    tasks: tuple[str, ...] = (),
    length: int = 2048,
    samples: int = 2,
    limit: int | None = None,
    layers: str | None = None,
    positions: str = "last:256",
    values: bool = False,
    witnesses: int = 4,
    decode: int = 0,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    stream_layers: bool = False,
    device_map: str | None = None,
    tensor_parallel: bool = False,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> Capture:
    """Loads the model, encodes the prompts and captures every sample; see `capture --help`."""
    rule = parse(positions, seed)
    spread = Spread(stream_layers, device_map, tensor_parallel, decode)
    loaded = load_step(
        model, revision, prompts, tasks, length, samples, limit, layers, device, dtype,
        trust_remote_code, seed, spread=spread,
    )  # fmt: skip
    encoded = loaded.encoded
    plan = capturing.Plan(loaded.layers, rule, positions, values, witnesses, decode)
    facts = capturing.manifest(loaded.model, model, revision, encoded, plan, seed)
    if stream_layers:
        from indexer_lab.cli.streamed_step import streamed_step

        return streamed_step(
            loaded.model, encoded, plan, facts, output, resume, force, quiet or as_json
        )
    run = capturing.run
    if tensor_parallel:
        from indexer_lab.capturing_parallel import run_parallel as run
    with progress("capture", len(encoded), quiet) as advance:
        return run(loaded.model, encoded, plan, facts, output, resume, force, advance)


@dataclass(frozen=True)
class Loaded:
    """A model and what it is to read.

    tokenizer: None when every prompt came as ids. layers: those that were asked for.
    """

    model: Any
    tokenizer: Any
    encoded: list[capturing.Encoded]
    layers: list[int]


def load_step(
    model: str,
    revision: str | None,
    prompts: Path | None,
    tasks: tuple[str, ...],
    length: int,
    samples: int,
    limit: int | None,
    layers: str | None,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    seed: int,
    room: int = 0,
    spread: Spread = WHOLE,
) -> Loaded:
    """The model, its tokenizer where one is needed, the prompts in token ids, and the layers that
    a text like 0,3,10-20 names (None: all).

    room: tokens that the model must have left after a built-in prompt, which is made shorter for
          it.
    spread: how a model gets in that is larger than one device.
    """
    _one_of(prompts, tasks)

    import torch

    torch.manual_seed(seed)
    place, config = _find(model, revision, trust_remote_code, spread.stream_layers)
    chosen = capturing.layers_of(config, layers)
    tokenizer, encoded = _read(
        place, config, revision, prompts, tasks, length, samples, limit, trust_remote_code, seed,
        room,
    )  # fmt: skip
    opened = spread.load(place, revision, dtype, device, trust_remote_code)
    module = opened.module if spread.stream_layers else opened
    return Loaded(opened, tokenizer, encoded, capturing.attending(module, layers, chosen))


def lengths_step(
    model: str,
    prompts: Path | None,
    tasks: tuple[str, ...],
    length: int,
    samples: int,
    seed: int,
    room: int = 0,
) -> list[int]:
    """Tokens of every prompt that the same settings give `load_step`; no weight is read."""
    _one_of(prompts, tasks)
    place, config = _find(model, None, False)
    read = _read(place, config, None, prompts, tasks, length, samples, None, False, seed, room)
    return [prompt.given for prompt in read[1]]


def _one_of(prompts: Path | None, tasks: tuple[str, ...]) -> None:
    if (prompts is None) == (not tasks):
        raise InputError("give either --prompts FILE or --task NAME: what should the model read?")


def _read(
    place: str,
    config: Any,
    revision: str | None,
    prompts: Path | None,
    tasks: tuple[str, ...],
    length: int,
    samples: int,
    limit: int | None,
    trust_remote_code: bool,
    seed: int,
    room: int,
) -> tuple[Any, list[capturing.Encoded]]:
    """The tokenizer, where one is needed, and the prompts in token ids."""
    from indexer_probes.loading import load_tokenizer

    asked = read(prompts, limit) if prompts is not None else None
    limits = capturing.limits_of(config)
    tokenizer = None
    if asked is None or any(prompt.text is not None for prompt in asked):
        tokenizer = load_tokenizer(place, revision, trust_remote_code)
    if asked is None:
        most = limits.length
        fitting = min(length, most - room) if room and most is not None else length
        asked = built_in(tasks, tokenizer, fitting, samples, seed)[:limit]
    return tokenizer, capturing.encode(asked, tokenizer, limits)


def _find(
    model: str, revision: str | None, trust_remote_code: bool, on_disk: bool = False
) -> tuple[str, Any]:
    """Where a model is and its configuration, read before any weight so that a wrong name, family
    or layer costs nothing. Raises ProbeError, or InputError when a shipped name was misspelled.

    on_disk: no hub is asked; the place of a hub model is its folder in the cache.
    """
    from indexer_lab.reference import names, resolve
    from indexer_probes.errors import ProbeError
    from indexer_probes.loading import load_config

    place = resolve(model)
    try:
        if on_disk:
            from indexer_probes.streaming.checkpoint import checkpoint_folder

            place = str(checkpoint_folder(place, revision))
        return place, load_config(place, revision, trust_remote_code)
    except ProbeError as error:
        close = difflib.get_close_matches(model, names(), n=1)
        if close and model not in names():
            raise InputError(f"unknown model {model!r}: did you mean {close[0]!r}?") from error
        raise


def fitting(model: str, length: int, tokens: int) -> int:
    """The length, or what leaves room for so many tokens more before the model's limit."""
    _, config = _find(model, None, False)
    most = capturing.limits_of(config).length
    return length if most is None else min(length, most - tokens)


def built_in(
    tasks: tuple[str, ...], tokenizer: Any, length: int, samples: int, seed: int
) -> list[Prompt]:
    """Prompts from the task generators: real text with needles planted in it, or as it is."""
    from indexer_lab.tasks import TASKS, prompts, source_text

    known = (*TASKS, source_text.NAME)
    found = []
    for task in tasks:
        if task not in known:
            raise unknown_name("task", task, known)
        if task == source_text.NAME:
            texts = source_text.texts(tokenizer, length, samples, seed)
            found += [
                Prompt(text.id, text.text, task=task, predicted=source_text.PREDICTED)
                for text in texts
            ]
        else:
            found += [_prompt(one) for one in prompts(task, tokenizer, length, samples, seed)]
    return found


def _prompt(sample: Sample) -> Prompt:
    return Prompt(
        id=sample.id,
        text=sample.text,
        task=sample.task,
        answer=sample.answer,
        needles=[(needle.start, needle.end) for needle in sample.needles],
    )
