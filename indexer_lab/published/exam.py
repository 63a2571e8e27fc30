"""A sample of an lm-eval task: lm-eval asks and scores, the model answers under a trial."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from indexer_lab.published.compare import BLANK, NAN, compare, forced
from indexer_lab.published.harness import Source, using
from indexer_lab.published.steered import Heard, Steered
from indexer_lab.quality.trial import DENSE, Trial
from indexer_lab.store.capture import SampleInfo

OTHER_LENGTH = -1.0
"""RULER's mark on the metrics of the lengths that a sample does not have."""


@dataclass(frozen=True)
class LmEvalQuestion:
    """What lm-eval asks about one document. room: most tokens that an answer takes.

    ids:   token ids of the longest prompt, as lm-eval cuts it to the model's limit.
    whole: its tokens before that.
    """

    info: SampleInfo
    ids: list[int]
    task: Any
    requests: tuple[Any, ...]
    room: int
    whole: int
    depth: float = NAN


def questions(
    tasks: dict[str, Any], lm: Steered, source: Source, limit: int | None, chat: bool
) -> list[LmEvalQuestion]:
    """Every document of every task, at most `limit` a task, in lm-eval's order and words.

    chat: whether lm-eval puts the tokenizer's chat template around each prompt.
    """
    found = []
    for name, task in tasks.items():
        with using(source):
            task.build_all_requests(
                limit=limit,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=lm.apply_chat_template if chat else None,
                tokenizer_name=lm.tokenizer_name if chat else "",
            )
        documents: dict[int, list[Any]] = {}
        for request in task.instances:
            documents.setdefault(request.doc_id, []).append(request)
        for number, requests in documents.items():
            found.append(_question(name, task, number, requests, lm))
    return found


def _question(
    name: str, task: Any, number: int, requests: list[Any], lm: Steered
) -> LmEvalQuestion:
    requests.sort(key=lambda request: request.idx)
    prompt = max((lm.tok_encode(request.args[0]) for request in requests), key=len)
    room = max(_room(request, lm) for request in requests)
    ids = prompt[-max(1, min(len(prompt), lm.max_length - room)) :]
    info = SampleInfo(f"{name}-{number}", f"lm-eval:{name}", max(1, len(ids)))
    return LmEvalQuestion(info, ids, task, tuple(requests), room, len(prompt))


def _room(request: Any, lm: Steered) -> int:
    """The most tokens that come after a request's prompt."""
    if request.request_type == "generate_until":
        given = request.args[1]
        return int(given.get("max_gen_toks", given.get("max_new_tokens", lm.max_gen_toks)))
    if len(request.args) == 1:  # a whole text is its own answer
        return 0
    return len(lm.tok_encode(request.args[1], add_special_tokens=False))


def metrics(task: Any) -> list[str]:
    """The metrics of a task that are better when higher, in the task's order."""
    return [str(name) for name, high in (task.higher_is_better() or {}).items() if high]


class LmEvalExam:
    """One document before a model, and what its dense run gave."""

    def __init__(self, lm: Steered, source: Source, question: LmEvalQuestion):
        self._lm = lm
        self._source = source
        self._question = question

    def measure(self, trial: Trial) -> dict[str, float]:
        """Generated answers: tokens and score, or in replay what the dense tokens cost.

        Scored continuations are teacher-forced in every mode: nll, kl and agreement are means over
        the tokens of all of them; of a whole text, nll alone.
        """
        if trial.mode == "replay" and self._generates:
            return self._replayed(trial)
        heard = self._dense_heard if trial.selector == DENSE else self._answer(trial)
        numbers = {**BLANK, "tokens": sum(len(each.tokens) for each in heard)}
        numbers["score"] = self._dense_score if trial.selector == DENSE else self._score()
        if not self._generates:
            nll = _nll(heard)
            numbers |= {"nll": nll, "delta_nll": nll - _nll(self._dense_heard)}
        if all(each.rows is not None for each in heard):
            logs, truth = _rows(heard), _rows(self._dense_heard)
            numbers |= compare(logs, truth, [token for each in heard for token in each.tokens])
        return numbers

    @property
    def _generates(self) -> bool:
        return any(each.request_type == "generate_until" for each in self._question.requests)

    @cached_property
    def _dense(self) -> tuple[list[Heard], float]:
        heard = self._answer(Trial("decode", DENSE, 0))
        return heard, self._score()

    @property
    def _dense_heard(self) -> list[Heard]:
        return self._dense[0]

    @property
    def _dense_score(self) -> float:
        return self._dense[1]

    def _answer(self, trial: Trial) -> list[Heard]:
        """Sends the requests through lm-eval's model; their responses stay in them."""
        self._lm.trial, self._lm.heard = trial, []
        for request in self._question.requests:
            request.resps, request.filtered_resps = [], {}
        with using(self._source):
            for kind in dict.fromkeys(each.request_type for each in self._question.requests):
                self._ask(kind)
        return self._lm.heard

    def _ask(self, kind: str) -> None:
        part = [each for each in self._question.requests if each.request_type == kind]
        copies = [each for each in part for _ in range(each.repeats or 1)]
        answers = getattr(self._lm, kind)(copies, disable_tqdm=True)
        for request, answer in zip(copies, answers, strict=True):
            request.resps.append(answer)

    def _score(self) -> float:
        """The task's first metric that is better when higher, of its first filter; or nan.

        A metric that the task does not declare comes last: RULER's at a length of one's own.
        """
        task, requests = self._question.task, list(self._question.requests)
        with using(self._source):
            for ensemble in task._filters:  # apply_filters would go over every document
                ensemble.apply(requests)
            name = next(iter(requests[0].filtered_resps))
            found = task.process_results(
                requests[0].doc, [each.filtered_resps[name] for each in requests]
            )
        strange = [name for name in found if name not in (task.higher_is_better() or {})]
        for metric in (*metrics(task), *strange):
            value = found.get(metric)
            if isinstance(value, bool | int | float) and value != OTHER_LENGTH:
                return float(value)
        return NAN

    def _replayed(self, trial: Trial) -> dict[str, float]:
        logs = self._truth if trial.selector == DENSE else self._forced(trial)
        tokens = [token for _, said in self._dense_said for token in said]
        return {**BLANK, "tokens": len(tokens), **compare(logs, self._truth, tokens)}

    @cached_property
    def _truth(self) -> torch.Tensor:
        return self._forced(Trial("replay", DENSE, 0))

    def _forced(self, trial: Trial) -> torch.Tensor:
        model = self._lm.model
        return torch.cat([forced(model, trial, ids, said) for ids, said in self._dense_said])

    @property
    def _dense_said(self) -> list[tuple[torch.Tensor, list[int]]]:
        """Prompts, and what the dense model generated after them."""
        return [(each.ids, each.tokens) for each in self._dense_heard if each.ids is not None]


def _nll(heard: list[Heard]) -> float:
    """Nats per token of scored continuations."""
    return sum(each.nats for each in heard) / sum(len(each.tokens) for each in heard)


def _rows(heard: list[Heard]) -> torch.Tensor:
    return torch.cat([each.rows for each in heard if each.rows is not None])
