"""Samples through every trial of a protocol: quality rows out, resumable sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from indexer_lab.capturing import Encoded
from indexer_lab.errors import InputError
from indexer_lab.positions import Positions
from indexer_lab.quality.decoding import own_decoding
from indexer_lab.quality.divergence import divergence
from indexer_lab.quality.entropies import PROMPT, Entropies
from indexer_lab.quality.forward import Clock, generate, prefill, replay
from indexer_lab.quality.same_bits import side_by_side
from indexer_lab.quality.subject import NAN, Subject
from indexer_lab.quality.trial import ALL_LAYERS, DENSE, Protocol, Trial
from indexer_lab.selectors.following import Follower
from indexer_lab.store.quality import Quality
from indexer_probes.records import LayerRecord
from indexer_probes.steering import Watch, steer

GENERATED = dict.fromkeys(("nll", "delta_nll", "kl", "agreement", "bits_per_byte"), NAN)


def run(
    model: Any,
    tokenizer: Any,
    encoded: list[Encoded],
    protocol: Protocol,
    quality: Quality,
    entropy: Positions | None = None,
    batch: int = 1,
    done: Callable[[str], None] = lambda what: None,
) -> None:
    """Runs every sample that is not on disk yet; `done` hears of each.

    entropy: which of a prompt's queries get entropy rows; None for no entropy rows at all.
    batch:   samples that generate side by side, as far as that changes no row.
    Raises InputError for a selector that does not fit the model.
    """
    pending = []
    for prompt in encoded:
        if quality.part(prompt.info).exists():
            done(prompt.info.id)
        else:
            pending.append(prompt)
    batch = side_by_side(model, batch)
    for start in range(0, len(pending), batch):
        group = [
            _subject(model, tokenizer, each, entropy) for each in pending[start : start + batch]
        ]
        measure(group, protocol)
        for subject in group:
            quality.save(subject.encoded.info, subject.sheets())
            done(subject.encoded.info.id)


def check_lengths(encoded: list[Encoded], tokens: int, limit: int | None) -> None:
    """Raises InputError for a prompt too short to decode after, or too long to leave room."""
    for prompt in encoded:
        length = prompt.given
        if length < 2:
            raise InputError(
                f"prompt {prompt.info.id!r} has one token: a run needs two or more, the last of "
                "which is the first decode step"
            )
        if not prompt.predicted and limit is not None and length + tokens > limit:
            raise InputError(
                f"prompt {prompt.info.id!r} has {length} tokens, and the model takes {limit}: no "
                f"room for --tokens {tokens}; shorten the prompt or ask for fewer"
            )


def measure(group: Sequence[Subject], protocol: Protocol) -> None:
    """Every trial of the protocol on samples of one model, noted by each of them."""
    for subject in group:
        _read(subject)
    _answer_densely(group, protocol.tokens)
    for trial in protocol.trials():
        for subject in group:
            if trial.mode == "replay" or subject.is_text:
                _replayed(subject, trial)
        answering = [each for each in group if trial.mode != "replay" and not each.is_text]
        if answering:
            _generated(answering, trial, protocol.tokens)


def _subject(model: Any, tokenizer: Any, prompt: Encoded, entropy: Positions | None) -> Subject:
    log = None if entropy is None else Entropies(prompt.info, prompt.given, entropy)
    return Subject(model, tokenizer, prompt, log)


def _read(subject: Subject) -> None:
    """The dense prompt, read once."""
    dense = Trial(PROMPT, DENSE, 0)
    watch = _watch([subject], dense, Clock(subject.model.device))
    with steer(subject.model, [], layers=(), watch=watch):
        subject.cache = prefill(subject.model, subject.prompt)


def _answer_densely(group: Sequence[Subject], tokens: int) -> None:
    """What each subject has to predict when it is replayed, and the dense model's odds of it."""
    silent = [each for each in group if not each.is_text]
    if silent:
        with steer(silent[0].model, [], layers=()):
            made = _generate(silent, [_cache(each) for each in silent], tokens, _clock(silent))
        for subject, its in zip(silent, made, strict=True):
            subject.forced = its
    for subject in group:
        if subject.is_text:
            subject.forced = subject.encoded.ids[subject.encoded.given :].tolist()
        with steer(subject.model, [], layers=()):
            subject.truth = replay(
                subject.model, _cache(subject), subject.last, subject.forced, _clock([subject])
            )


def _replayed(subject: Subject, trial: Trial) -> None:
    selector, clock = subject.follower(trial), _clock([subject])
    own = own_decoding(selector)
    if own is not None:
        own.prepare(subject.model, subject.prompt, trial.own_prompt)
    cache = _own_prompt(subject, trial, selector)
    with _steered([subject], trial, [selector], clock):
        if own is None:
            logs = replay(subject.model, cache, subject.last, subject.forced, clock)
        else:
            logs = own.replay(subject.model, subject.prompt, cache, subject.forced, clock)
    assert subject.truth is not None
    numbers = divergence(subject.forced, logs, subject.truth, subject.encoded.bytes)
    subject.note(trial, numbers, clock.seconds, [len(subject.forced)])


def _generated(group: Sequence[Subject], trial: Trial, tokens: int) -> None:
    if own_decoding(group[0].follower(trial)) is None:
        _generated_together(group, trial, tokens)
    else:
        for subject in group:
            _generated_alone(subject, trial, tokens)


def _generated_alone(subject: Subject, trial: Trial, tokens: int) -> None:
    """By the selector's own decoding, which takes one sequence."""
    selector, clock = subject.follower(trial), _clock([subject])
    own = own_decoding(selector)
    assert own is not None
    own.prepare(subject.model, subject.prompt, trial.own_prompt)
    cache = _own_prompt(subject, trial, selector)
    with _steered([subject], trial, [selector], clock):
        made = own.generate(subject.model, subject.prompt, cache, tokens, subject.ends, clock)
    numbers = {**GENERATED, "tokens": len(made), "score": subject.score(made)}
    subject.note(trial, numbers, clock.seconds, [len(made)])


def _generated_together(group: Sequence[Subject], trial: Trial, tokens: int) -> None:
    selectors, clock = [each.follower(trial) for each in group], _clock(group)
    pairs = zip(group, selectors, strict=True)
    caches = [_own_prompt(subject, trial, own) for subject, own in pairs]
    with _steered(group, trial, selectors, clock):
        made = _generate(group, caches, tokens, clock)
    side = [len(its) for its in made]
    for subject, its in zip(group, made, strict=True):
        numbers = {**GENERATED, "tokens": len(its), "score": subject.score(its)}
        subject.note(trial, numbers, clock.seconds, side)


def _own_prompt(subject: Subject, trial: Trial, selector: Follower) -> DynamicCache:
    """The cache that a trial goes on from: a sparse prompt's own, or the dense one of all."""
    if not trial.own_prompt:
        return _cache(subject)
    with _steered([subject], trial, [selector], _clock([subject])):
        return prefill(subject.model, subject.prompt)


def _generate(
    group: Sequence[Subject], caches: list[DynamicCache], tokens: int, clock: Clock
) -> list[list[int]]:
    last, stops = [each.last for each in group], [each.ends for each in group]
    return generate(group[0].model, caches, last, tokens, stops, clock)


def _steered(
    group: Sequence[Subject], trial: Trial, selectors: Sequence[Follower], clock: Clock
) -> Any:
    choosers = [trial.choose(each) for each in selectors]
    attend = [own for each in selectors if (own := getattr(each, "attend", None)) is not None]
    watch = _watch(group, trial, clock)
    if attend:  # past queries come again: the newest alone is new
        watch = [_newest(each) for each in watch]
    return steer(group[0].model, choosers, trial.layers, watch=watch, attend=attend)


def _newest(watch: Watch) -> Watch:
    """Sees the newest query of a step; of a prompt, all."""

    def see(record: LayerRecord, support: Tensor | None) -> None:
        if int(record.positions[0]) and record.rows > 1:
            last = record.positions.new_tensor([record.rows - 1])
            record = record.at(last)
            support = None if support is None else support[:, last]
        watch(record, support)

    return see


def _watch(group: Sequence[Subject], trial: Trial, clock: Clock) -> list[Watch]:
    """Who takes down the entropies: nobody when one layer selects, since all others are dense."""
    if trial.layer != ALL_LAYERS:
        return []
    logs = [each.entropies for each in group]
    return [log.watch(trial, clock) for log in logs if log is not None]


def _clock(group: Sequence[Subject]) -> Clock:
    return Clock(group[0].model.device)


def _cache(subject: Subject) -> DynamicCache:
    assert subject.cache is not None
    return subject.cache
