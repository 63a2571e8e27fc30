"""Prompts through a model, layer records onto the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from indexer_lab import __version__
from indexer_lab.capture_size import Kept, part_bytes, shared_bytes
from indexer_lab.errors import InputError, OutOfRoom
from indexer_lab.positions import Positions, parse_layers
from indexer_lab.prompts import Prompt
from indexer_lab.store.capture import Capture, SampleInfo, create
from indexer_lab.store.files import digest, folder_bytes, free_bytes, written
from indexer_probes.capture import Probe, capture
from indexer_probes.records import LayerRecord
from indexer_probes.spreading import input_device


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model gets it: ids int64 [token], and what is kept about it.

    predicted: a text's last tokens, which a quality run predicts in place of an answer.
    bytes:     what those spell, in UTF-8.
    """

    ids: torch.Tensor
    info: SampleInfo
    predicted: int = 0
    bytes: int = 0

    @property
    def given(self) -> int:
        """Tokens of the prompt that a quality run gives."""
        return len(self.ids) - self.predicted


@dataclass(frozen=True)
class Plan:
    """What one capture run keeps. positions_rule is the rule as spelled; decode: generated tokens
    whose queries are kept too."""

    layers: list[int]
    positions: Positions
    positions_rule: str
    values: bool
    witnesses: int
    decode: int = 0


@dataclass(frozen=True)
class Limits:
    """What a model can read: ids below `vocabulary`, at most `length` tokens (None: unbounded)."""

    vocabulary: int
    length: int | None


def limits_of(config: Any) -> Limits:
    """The limits that a transformers configuration states."""
    text = config.get_text_config()
    return Limits(text.vocab_size, getattr(text, "max_position_embeddings", None))


def encode(prompts: list[Prompt], tokenizer: Any, limits: Limits) -> list[Encoded]:
    """Token ids for each prompt; the tokenizer may be None when every prompt comes as ids.

    Raises InputError for a prompt over the limit, an id outside the vocabulary, and a text that
    becomes no token.
    """
    return [_encode(prompt, tokenizer, limits) for prompt in prompts]


def _encode(prompt: Prompt, tokenizer: Any, limits: Limits) -> Encoded:
    needles: list[list[int]] = []
    predicted, spelled = 0, 0
    if prompt.input_ids is not None:
        ids = prompt.input_ids
    else:
        located = bool(prompt.needles or prompt.predicted)
        encoded = tokenizer(prompt.text, return_offsets_mapping=located)
        ids = encoded["input_ids"]
        if prompt.needles:
            needles = [_tokens(span, encoded["offset_mapping"]) for span in prompt.needles]
        if prompt.predicted:
            predicted = min(prompt.predicted, len(ids) // 2)
            start = encoded["offset_mapping"][len(ids) - predicted][0]
            spelled = len(str(prompt.text)[start:].encode())
    _check_ids(prompt.id, ids, limits)
    info = SampleInfo(prompt.id, prompt.task, len(ids), prompt.answer, needles, digest(ids))
    return Encoded(torch.tensor(ids, dtype=torch.int64), info, predicted, spelled)


def _check_ids(identifier: str, ids: list[int], limits: Limits) -> None:
    if not ids:
        raise InputError(f"prompt {identifier!r} has no tokens")
    if max(ids) >= limits.vocabulary:
        raise InputError(
            f"prompt {identifier!r} has token id {max(ids)} and the model knows ids 0 to "
            f"{limits.vocabulary - 1}: were these ids made by another tokenizer?"
        )
    if limits.length is not None and len(ids) > limits.length:
        raise InputError(
            f"prompt {identifier!r} has {len(ids)} tokens and the model takes {limits.length}: "
            "shorten it, or leave it out"
        )


def _tokens(span: tuple[int, int], offsets: list[tuple[int, int]]) -> list[int]:
    """First and one past the last token that overlap a character span."""
    inside = [i for i, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return [inside[0], inside[-1] + 1] if inside else [0, 0]


def manifest(
    model: Any, name: str, revision: str | None, encoded: list[Encoded], plan: Plan, seed: int
) -> dict[str, Any]:
    """What identifies a capture run; two runs with equal manifests give equal captures."""
    import transformers

    config = model.config.to_dict()
    config.pop("distributed_config", None)  # how it was spread; `tensor_parallel` says how far
    parts = getattr(model, "_tp_size", None) or 1
    return {
        "indexer_lab": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "model": name,
        "revision": revision,
        "model_type": model.config.model_type,
        "config_digest": digest(config),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": input_device(model).type,
        "layers": plan.layers,
        "positions": plan.positions_rule,
        "values": plan.values,
        "witnesses": plan.witnesses,
        "seed": seed,
        "prompts_digest": digest([[p.info.id, p.ids.tolist()] for p in encoded]),
        "samples": len(encoded),
        **({"tensor_parallel": parts} if parts > 1 else {}),  # sums in another order
        **({"decode": plan.decode} if plan.decode else {}),
    }


def run(
    model: Any,
    encoded: list[Encoded],
    plan: Plan,
    facts: dict[str, Any],
    output: Path,
    resume: bool = False,
    force: bool = False,
    done: Callable[[str], None] = lambda sample: None,
) -> Capture:
    """Captures every sample that is not whole on disk yet; `done` hears of each.

    Raises InputError for a folder of another run, OutOfRoom when the disk cannot hold the capture.
    """
    if plan.decode:
        encoded = lengthened(model, encoded, plan.decode)
    taken = begin(model, encoded, plan, facts, output, resume, force)
    for prompt in encoded:
        if absent := taken.missing(prompt.info):
            if plan.decode:
                _decoded(model, prompt, plan, taken, absent)
            else:
                with torch.inference_mode(), listening(model, plan, keeping(taken, prompt), absent):
                    ids = prompt.ids[None].to(input_device(model))
                    model(input_ids=ids, use_cache=False, logits_to_keep=1)
        done(prompt.info.id)
    return taken


def begin(
    model: Any,
    encoded: list[Encoded],
    plan: Plan,
    facts: dict[str, Any],
    output: Path,
    resume: bool,
    force: bool,
    beside: int = 0,
) -> Capture:
    """The capture folder of this run, once the disk is known to hold what is still to be written.

    beside: bytes that the run needs on the same disk for itself.
    """
    standing = Capture(output, {"layers": plan.layers}, [])
    needed = beside + _bytes_missing(standing, model, encoded, plan, force)
    free = free_bytes(output) + (folder_bytes(output) if force else 0)
    if needed > free:
        raise OutOfRoom(
            f"this capture needs {needed / 1e6:.1f} MB more and {output} has {free / 1e6:.1f} MB "
            "free: free some room, or keep fewer --positions or --layers"
        )
    return create(output, facts, [prompt.info for prompt in encoded], resume, force)


def _bytes_missing(
    standing: Capture, model: Any, encoded: list[Encoded], plan: Plan, force: bool
) -> int:
    """Bytes of all parts that are not on disk yet."""
    kept = Kept(model.dtype.itemsize, plan.values, plan.witnesses)
    total = 0
    for prompt in encoded:
        length = prompt.info.length
        part = part_bytes(model.config, kept, length, len(plan.positions.rows(length)))
        total += part * len(plan.layers if force else standing.missing(prompt.info))
    absent = [layer for layer in plan.layers if force or not standing.shared(layer).exists()]
    return total + len(absent) * shared_bytes(model.config, kept)


def keeping(taken: Capture, prompt: Encoded) -> Callable[[LayerRecord], None]:
    """Writes a record of this prompt into the capture."""

    def keep(record: LayerRecord) -> None:
        _room_for(taken.path, record)
        taken.save(prompt.info, record)

    return keep


def listening(
    model: Any, plan: Plan, keep: Callable[[LayerRecord], None], layers: list[int]
) -> AbstractContextManager[Probe]:
    """While open, `keep` gets what the plan wants of these layers of whatever the model reads."""
    return capture(
        model,
        keep,
        layers=layers,
        rows=plan.positions.rows,
        values=plan.values,
        witnesses=plan.witnesses,
    )


def lengthened(model: Any, encoded: list[Encoded], steps: int) -> list[Encoded]:
    """The prompts with the lengths that they have after so many generated tokens.

    Raises ProbeError for a family whose decode steps cannot be captured, InputError for a prompt
    that leaves too little room.
    """
    from indexer_probes.decoding import refuse_decoding

    refuse_decoding(model)
    most = limits_of(model.config).length
    for prompt in encoded:
        if most is not None and len(prompt.ids) + steps > most:
            raise InputError(
                f"--decode {steps}: prompt {prompt.info.id!r} has {len(prompt.ids)} tokens and the "
                f"model takes {most}; decode at most {max(most - len(prompt.ids), 0)}"
            )
    return [
        replace(prompt, info=replace(prompt.info, length=len(prompt.ids) + steps))
        for prompt in encoded
    ]


def _decoded(model: Any, prompt: Encoded, plan: Plan, taken: Capture, layers: list[int]) -> None:
    """Captures a prompt and its decode steps, and keeps the generated ids beside the records."""
    from indexer_probes.decoding import capture_decoding

    with torch.inference_mode():
        ids = capture_decoding(
            model, prompt.ids, plan.decode, keeping(taken, prompt), layers, plan.positions.rows,
            plan.values, plan.witnesses,
        )  # fmt: skip
    with written(taken.generated(prompt.info)) as temporary:
        temporary.write_text(json.dumps(ids), encoding="utf-8")


def _room_for(folder: Path, record: LayerRecord) -> None:
    needed = sum(tensor.numel() * tensor.element_size() for _, tensor in record.tensors())
    free = free_bytes(folder)
    if needed > free:
        raise OutOfRoom(
            f"layer {record.layer} needs {needed / 1e6:.0f} MB and {folder} has {free / 1e6:.0f} "
            "MB free: free some room and add --resume, or keep fewer --positions or --layers"
        )


def attending(model: Any, asked: str | None, layers: list[int]) -> list[int]:
    """Those of the layers that have attention to capture, where none was asked for by number.

    Raises InputError for an asked one that has none.
    """
    from indexer_probes.session import attention_layers

    known = set(attention_layers(model).values())
    absent = [layer for layer in layers if layer not in known]
    if absent and asked is not None and asked != "all":
        have = ", ".join(map(str, sorted(known)))
        raise InputError(
            f"--layers {asked!r}: layer {absent[0]} has no softmax attention; layers {have} have"
        )
    return [layer for layer in layers if layer in known]


def layers_of(config: Any, text: str | None) -> list[int]:
    """The layers that `--layers` names on a model of this transformers configuration."""
    return parse_layers(text, config.get_text_config().num_hidden_layers)
