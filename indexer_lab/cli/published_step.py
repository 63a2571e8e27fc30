"""The quality step for published tasks: a model and a benchmark in, quality rows out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from indexer_lab import capturing
from indexer_lab.cli.options import numbers
from indexer_lab.cli.quality_step import _manifest, quality_step
from indexer_lab.cli.steps import Loaded, _find
from indexer_lab.errors import InputError, unknown_name
from indexer_lab.progress import progress
from indexer_lab.published.names import Asked, asked
from indexer_lab.published.running import keep_prompts, run
from indexer_lab.quality.trial import MODES, Protocol
from indexer_lab.scoring import check_budgets
from indexer_lab.selectors import selector
from indexer_lab.store.files import digest
from indexer_lab.store.quality import Quality, create

ONLY = {
    "data": ("--data", "helmet"),
    "include_path": ("--include-path", "lm-eval"),
    "metadata": ("--metadata", "lm-eval"),
    "allow_download": ("--allow-download", "lm-eval"),
}
"""Option -> how it is spelled, and the suite that reads it."""


@dataclass(frozen=True)
class Bench:
    """A published benchmark made ready: its questions, who sits them, and what identifies it."""

    questions: list[Any]
    sit: Any
    longest: int
    asks: Any
    facts: dict[str, Any]


def any_step(**given: Any) -> Quality:
    """`quality` on built-in tasks and prompts, or on published tasks; see `quality --help`."""
    tasks = asked(tuple(given["tasks"]))
    for name, (option, suite) in ONLY.items():
        if given[name] and (tasks is None or tasks.suite != suite):
            raise InputError(f"{option} is for --task {suite}:NAME; leave it out, or name one")
    if tasks is not None:
        return published_step(tasks, given)
    if given["chat_template"]:
        raise InputError("--chat-template is for published tasks; leave it out, or name one")
    return quality_step(**{k: v for k, v in given.items() if k not in (*ONLY, "chat_template")})


def published_step(tasks: Asked, given: dict[str, Any]) -> Quality:
    """Runs every published sample that is not on disk yet."""
    modes = given["modes"] or ("decode",)
    for mode in modes:
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
    for label in given["selectors"]:
        selector(label)
    if given["batch"] != 1:
        raise InputError(
            f"--batch {given['batch']}: published tasks run one sample at a time; leave it out"
        )
    if given["limit"] is not None and given["limit"] < 1:
        raise InputError(f"--limit {given['limit']}: expected 1 or more")
    if given["prompts"] is not None:
        raise InputError("give either --prompts FILE or --task NAME: what should the model read?")
    bench, loaded = (_helmet if tasks.suite == "helmet" else _lm_eval)(tasks.names, given)
    protocol = Protocol(
        modes=tuple(dict.fromkeys(modes)),
        selectors=tuple(given["selectors"]),
        budgets=check_budgets(numbers("--budget", given["budgets"]), bench.longest),
        swaps=() if given["swap_layers"] is None else tuple(loaded.layers),
        tokens=0,
    )
    facts = _manifest(loaded, given["model"], given["revision"], protocol, given["seed"])
    facts |= {
        "suite": tasks.suite,
        "tasks": list(tasks.names),
        "chat_template": given["chat_template"],
        "tokens": None,  # each task has its own
        "prompts_digest": digest(bench.asks),
        "samples": len(bench.questions),
        **bench.facts,
    }
    quality = create(given["output"], facts, given["resume"], given["force"])
    keep_prompts(bench.questions, quality)
    with progress("quality", len(bench.questions), given["quiet"] or given["as_json"]) as advance:
        run(bench.questions, bench.sit, protocol, quality, advance)
    return quality


def _helmet(names: tuple[str, ...], given: dict[str, Any]) -> tuple[Bench, Loaded]:
    from indexer_lab.published.helmet import HelmetExam, check_room, questions
    from indexer_lab.published.helmet_data import WHERE
    from indexer_lab.published.helmet_tasks import tasks_of

    tasks = tasks_of(names)
    if given["data"] is None:
        raise InputError(
            f"--task helmet:{names[0]} needs --data FOLDER, unpacked from {WHERE}; nothing is "
            "downloaded here"
        )
    place, layers, tokenizer = _read(given)
    found = questions(
        given["data"], tasks, given["length"], tokenizer, given["limit"], given["chat_template"]
    )
    loaded = _load(place, layers, tokenizer, given)
    check_room(found, capturing.limits_of(loaded.model.config).length)
    bench = Bench(
        found,
        lambda question: HelmetExam(loaded.model, tokenizer, question),
        max(len(each.ids) + each.task.tokens for each in found),
        [[each.info.id, each.ids, each.answers] for each in found],
        {"length": given["length"]},
    )
    return bench, loaded


def _lm_eval(names: tuple[str, ...], given: dict[str, Any]) -> tuple[Bench, Loaded]:
    from indexer_lab.published import harness

    harness.require()
    source = harness.Source(
        given["include_path"], given["allow_download"], _metadata(given["metadata"])
    )
    manager = harness.find(names, source)
    place, layers, tokenizer = _read(given)
    tasks = harness.load(names, manager, source, tokenizer)
    loaded = _load(place, layers, tokenizer, given)

    from lm_eval import __version__

    from indexer_lab.published.exam import LmEvalExam, metrics, questions
    from indexer_lab.published.steered import Steered

    limit = capturing.limits_of(loaded.model.config).length
    with harness.using(source):
        lm = Steered(loaded.model, tokenizer, limit, given["seed"])
    found = questions(tasks, lm, source, given["limit"], given["chat_template"])
    cut = sum(each.whole > each.info.length for each in found)
    if cut and not given["quiet"]:
        click.echo(
            f"note: {cut} of {len(found)} prompts and their answers are over the model's {limit} "
            "tokens: lm-eval leaves out their beginnings",
            err=True,
        )
    bench = Bench(
        found,
        lambda question: LmEvalExam(lm, source, question),
        max(each.info.length + each.room for each in found),
        [[each.info.id, [request.args for request in each.requests]] for each in found],
        {"lm_eval": __version__, "metrics": {name: metrics(task) for name, task in tasks.items()}},
    )
    return bench, loaded


def _metadata(pairs: tuple[str, ...]) -> dict[str, Any]:
    """key=value, the value read as YAML. Raises InputError."""
    import yaml

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key:
            raise InputError(
                f"--metadata {pair!r}: expected key=value, like max_seq_lengths=[4096]"
            )
    return found


def _read(given: dict[str, Any]) -> tuple[str, list[int], Any]:
    """Where the model is, the layers asked for, and its tokenizer, before any weight."""
    from indexer_probes.loading import load_tokenizer

    trust = given["trust_remote_code"]
    place, config = _find(given["model"], given["revision"], trust)
    layers = capturing.layers_of(config, given["swap_layers"])
    tokenizer = load_tokenizer(place, given["revision"], trust)
    if given["chat_template"] and not tokenizer.chat_template:
        raise InputError(
            f"--chat-template: the tokenizer of {given['model']!r} has none; leave it out"
        )
    return place, layers, tokenizer


def _load(place: str, layers: list[int], tokenizer: Any, given: dict[str, Any]) -> Loaded:
    import torch

    from indexer_probes.loading import load_model

    torch.manual_seed(given["seed"])
    model = load_model(
        place, given["revision"], given["dtype"], given["device"], given["trust_remote_code"]
    )
    return Loaded(model, tokenizer, [], layers)
