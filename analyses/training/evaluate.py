"""Prints what the shipped models get right, each number with its 95 % interval; offline.

    python analyses/training/evaluate.py                        every shipped model
    python analyses/training/evaluate.py needle-dsa --lengths 512,2048 --count 50 -o table.csv
    python analyses/training/evaluate.py --lengths 8192 --count 200 --batch 8 --workers 12 \\
        -o table.csv --resume                                    on a GPU; goes on where it stopped

Exact match counts whole answers on files and keys that training never saw. Modes:
  dense   every key
  sparse  the model's own indexer selects, by transformers' own code
  topk    the exact top-k of each query and head, in models without an indexer
`--budgets` says how many keys sparse and topk queries get; by default an eighth of the length, and
at most the indexer's `index_topk`.
"""

import argparse
import csv
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import torch

from indexer_lab.reference import names, resolve
from indexer_lab.tasks import TASKS
from indexer_lab.training.attention import TopK
from indexer_lab.training.dsa import indexers_of
from indexer_lab.training.evaluation import (
    bits_per_byte,
    dense,
    exact_match,
    indexer_recall,
    sparse,
)
from indexer_lab.training.examples import examples
from indexer_lab.training.models import load

Row = dict[str, Any]
MODES = ("dense", "sparse", "topk")
ASKED = ("model", "tokens", "seed", "what", "mode", "budget", "count")
"""What identifies a number: with --resume one that stands in the table is not measured again."""


def attention(model: Any, mode: str, budget: int) -> AbstractContextManager[None]:
    """The context in which a model attends as a mode says."""
    if mode == "sparse":
        return sparse(model, budget)
    return dense(model, TopK(k=budget)) if mode == "topk" else dense(model)


def questions(model: Any, length: int, asked: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """What to measure, in which mode and with how many keys (0: all)."""
    indexed = bool(indexers_of(model))
    most = min(length // 8, model.config.index_topk) if indexed else length // 8
    few = "sparse" if indexed else "topk"
    budgets = {"dense": [0], few: asked.budgets or [most]}
    modes = [mode for mode in asked.modes if mode in budgets]
    for task in asked.tasks:
        yield from ((task, mode, budget) for mode in modes for budget in budgets[mode])
    if "dense" in modes:
        yield "bits per byte", "dense", 0
    if indexed and "sparse" in modes:
        yield from (("indexer recall", "dense", budget) for budget in budgets["sparse"])


def answer(
    model: Any, tokenizer: Any, length: int, what: str, mode: str, budget: int,
    asked: argparse.Namespace,
) -> Row:  # fmt: skip
    """A number with the ends of its interval."""
    texts = count_of(what, asked.count)
    if what == "indexer recall":
        value, ends = indexer_recall(model, tokenizer, length, budget, texts, asked.seed)
    elif what == "bits per byte":
        with dense(model):
            value, ends = bits_per_byte(model, tokenizer, length, texts, asked.seed)
    else:
        drawn = examples(what, tokenizer, length, texts, asked.seed, asked.workers)
        with attention(model, mode, budget):
            share = exact_match(model, tokenizer, drawn, mode == "sparse", asked.batch)
        value, ends = share.value, share.interval()
    return {"value": round(value, 4), "low": round(ends[0], 4), "high": round(ends[1], 4)}


def count_of(what: str, count: int) -> int:
    """Samples of a task, or a quarter as many texts, 8 at least, for a number per text."""
    return count if what in TASKS else max(8, count // 4)


def rows(name: str, length: int, asked: argparse.Namespace, held: set[Any]) -> Iterator[Row]:
    """One row a number that is not held yet."""
    model, tokenizer = load(resolve(name), "cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(torch.bfloat16).eval()
    for what, mode, budget in questions(model, length, asked):
        row = {
            "model": name, "tokens": length, "seed": asked.seed, "what": what, "mode": mode,
            "budget": budget, "count": count_of(what, asked.count),
        }  # fmt: skip
        if identity(row) not in held:
            yield row | answer(model, tokenizer, length, what, mode, budget, asked)


def identity(row: Row) -> tuple[str, ...]:
    """A row's settings as text, as a CSV gives them back."""
    return tuple(str(row[name]) for name in ASKED)


def shown(row: Row) -> str:
    """A row as a line of text."""
    keys = f"{row['budget']} keys" if row["budget"] else "all keys"
    return (
        f"{row['model']:<18}{row['tokens']:>6} tokens  {row['what']:<18}{row['mode']:<7}{keys:>9}  "
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  n = {row['count']}"
    )


class Table:
    """A CSV that gets each row as it is measured."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path = path
        if path is not None and path.exists() and not resume:
            raise SystemExit(f"error: {path} holds a table: use --resume or another file")

    def held(self) -> set[tuple[str, ...]]:
        """What stands in it already."""
        if self.path is None or not self.path.exists():
            return set()
        with self.path.open(newline="") as file:
            return {identity(row) for row in csv.DictReader(file)}

    def add(self, row: Row) -> None:
        if self.path is None:
            return
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def _listed(known: tuple[str, ...]) -> Any:
    """Reads `a,b` whose parts must be known."""

    def read(text: str) -> list[str]:
        parts = [part for part in text.split(",") if part]
        for part in parts:
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r}: known are {', '.join(known)}")
        return parts

    return read


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=names(), help="names or folders")
    parser.add_argument("--lengths", type=_numbers, default=[512, 1024, 2048])
    parser.add_argument("--tasks", type=_listed(tuple(TASKS)), default=list(TASKS))
    parser.add_argument("--modes", type=_listed(MODES), default=list(MODES))
    parser.add_argument("--budgets", type=_numbers, default=[], help="keys a query, not dense")
    parser.add_argument("--count", type=int, default=50, help="samples a task")
    parser.add_argument("--batch", type=int, default=1, help="samples side by side")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the same numbers")
    parser.add_argument("--resume", action="store_true", help="go on with that file")
    return parser.parse_args()


def main() -> None:
    """Evaluates the models named, or every shipped one."""
    asked = arguments()
    table = Table(asked.output, asked.resume)
    held = table.held()
    for name, length in product(asked.models, asked.lengths):
        for row in rows(name, length, asked, held):
            print(shown(row), flush=True)
            table.add(row)


if __name__ == "__main__":
    main()
