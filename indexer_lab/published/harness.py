"""lm-eval's tasks, found and loaded through its Python interface; what goes wrong is one line."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import logging
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from indexer_lab.errors import InputError
from indexer_lab.published.offline import offline, unreachable
from indexer_probes.loading import hub_answers


@dataclass(frozen=True)
class Source:
    """Where lm-eval finds tasks and their data.

    include:  a folder of lm-eval YAMLs, beside lm-eval's own.
    download: whether it may fetch what is not on this machine.
    metadata: settings that tasks read, such as RULER's max_seq_lengths.
    """

    include: Path | None = None
    download: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def online(self) -> bool:
        """Whether to reach for the network: asked to, and the hub answers. The hub's own client
        would try for over 20 s to find out that it does not."""
        return self.download and hub_answers()


def require() -> None:
    """Raises InputError when lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "lm-eval tasks need the package lm-eval, which is not installed: "
            "pip install 'lm-eval[longbench,ruler]>=0.4.13,<0.5'"
        )


@contextlib.contextmanager
def using(source: Source) -> Iterator[None]:
    """lm-eval at work: silent, and off the network unless a download was asked for."""
    import datasets  # noqa: F401  # its offline flag must exist to be switched
    import lm_eval  # noqa: F401

    logger = logging.getLogger("lm_eval")
    level, sink = logger.level, io.StringIO()
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stderr(sink),
            contextlib.redirect_stdout(sink),
            offline(not source.online),
        ):
            yield
    finally:
        logger.setLevel(level)


def find(names: tuple[str, ...], source: Source) -> Any:
    """lm-eval's task manager, with every name in its index. Raises InputError.

    lm-eval's own folder of some ten thousand tasks is only read when the names need it.
    """
    if source.include is not None and not source.include.is_dir():
        raise InputError(
            f"--include-path {source.include}: no such folder; expected one of lm-eval's YAML files"
        )
    with using(source):
        if source.include is not None:
            manager = _manager(source, defaults=False)
            if set(names) <= set(manager.all_subtasks):  # a group may name tasks from elsewhere
                return manager
        manager = _manager(source, defaults=True)
    for name in names:
        if name not in manager.task_index:
            close = difflib.get_close_matches(name, manager.all_tasks, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"unknown lm-eval task {name!r}: {hint}`lm-eval ls tasks` lists its own, "
                "--include-path adds a folder of yours"
            )
    return manager


def _manager(source: Source, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    include = None if source.include is None else str(source.include)
    return TaskManager(
        include_path=include, include_defaults=defaults, metadata=dict(source.metadata)
    )


def load(names: tuple[str, ...], manager: Any, source: Source, tokenizer: Any) -> dict[str, Any]:
    """Task name -> task with its data, groups taken apart. Raises InputError.

    Few shots and generated prompts are drawn with lm-eval's own seeds, so that they are those of
    any lm-eval run. Tasks that measure their prompts in tokens read a tokenizer by name and trust
    its code; they get a copy of the one that is loaded, which holds none.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    tasks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if not manager.metadata.get("tokenizer"):
            tokenizer.save_pretrained(folder)
            manager.metadata["tokenizer"] = folder
        for name in names:
            with _explained(name, source), using(source):
                tasks |= manager.load([name])["tasks"]
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(
                f"lm-eval task {name!r} runs code that the model writes; that is not done here"
            )
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"lm-eval task {name!r} needs more than text; choose another task")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)  # as lm-eval's own evaluation does
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return tasks


@contextlib.contextmanager
def _explained(name: str, source: Source) -> Iterator[None]:
    """Whatever a task's YAML, code or data raises, as one line: none of it is ours."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"lm-eval task {name!r} needs a package that is not installed ({_line(error)}); its "
            "README in lm-eval says which"
        ) from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        wanted = isinstance(error, LookupError) or "Hub" in str(error)  # nltk's, evaluate's
        if unreachable(error) or (wanted and not source.online):
            raise InputError(_absent(name, source, error)) from error
        raise InputError(f"lm-eval task {name!r} cannot be loaded: {_line(error)}") from error


def _absent(name: str, source: Source, error: Exception) -> str:
    what = f"lm-eval task {name!r} needs data that is not on this machine ({_line(error)})"
    local = (
        "point --include-path at a folder with a YAML whose dataset_path and data_files name "
        "local files"
    )
    if source.download:
        return f"{what} and could not be fetched: check the network, or {local}"
    return f"{what}, and nothing is downloaded unasked: add --allow-download, or {local}"


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__
