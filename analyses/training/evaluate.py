"""Prints what the shipped models get right, each number with its 95 % interval; offline.

    python analyses/training/evaluate.py                        every shipped model
    python analyses/training/evaluate.py needle-dsa --lengths 512,2048 --count 50 -o table.csv

Exact match counts whole answers on files and keys that training never saw. Dense: the model attends
to every key. Sparse: its own indexer selects an eighth of the keys (at most its `index_topk`), by
transformers' own code; `--budgets` asks for other numbers of keys.
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
from indexer_lab.tasks import TASKS, prompts
from indexer_lab.training.dsa import indexers_of
from indexer_lab.training.evaluation import (
    bits_per_byte,
    dense,
    exact_match,
    indexer_recall,
    sparse,
)
from indexer_lab.training.models import load

Row = dict[str, Any]


def modes(
    model: Any, budgets: list[int]
) -> Iterator[tuple[str, int, AbstractContextManager[None]]]:
    """The ways to run a model: its name, keys a query (0: all) and the context to run it in."""
    yield "dense", 0, dense(model)
    for budget in budgets if indexers_of(model) else []:
        yield "sparse", budget, sparse(model, budget)


def rows(name: str, length: int, budgets: list[int], asked: argparse.Namespace) -> Iterator[Row]:
    """One row a number: tasks in each mode, bits per byte, and the indexer's recall."""
    model, tokenizer = load(resolve(name), "cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(torch.bfloat16).eval()
    budgets = budgets or [min(length // 8, getattr(model.config, "index_topk", 0))]
    shared = {"model": name, "tokens": length, "seed": asked.seed}
    for task in filter(None, asked.tasks.split(",")):
        samples = list(prompts(task, tokenizer, length, asked.count, asked.seed))
        for mode, budget, inside in modes(model, budgets):
            with inside:
                found = exact_match(model, tokenizer, samples, masked=mode == "sparse")
            yield shared | entry(task, mode, budget, found.value, found.interval(), asked.count)
    texts = max(8, asked.count // 4)
    with dense(model):
        bits, ends = bits_per_byte(model, tokenizer, length, texts, asked.seed)
    yield shared | entry("bits per byte", "dense", 0, bits, ends, texts)
    for budget in budgets if indexers_of(model) else []:
        share, ends = indexer_recall(model, tokenizer, length, budget, texts, asked.seed)
        yield shared | entry("indexer recall", "dense", budget, share, ends, texts)


def entry(
    what: str, mode: str, budget: int, value: float, ends: tuple[float, float], count: int
) -> Row:
    """The part of a row that is a number and its interval."""
    return {
        "what": what, "mode": mode, "budget": budget, "value": round(value, 4),
        "low": round(ends[0], 4), "high": round(ends[1], 4), "count": count,
    }  # fmt: skip


def shown(row: Row) -> str:
    """A row as a line of text."""
    keys = f"{row['budget']} keys" if row["budget"] else "all keys"
    return (
        f"{row['model']:<18}{row['tokens']:>6} tokens  {row['what']:<18}{row['mode']:<7}{keys:>9}  "
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  n = {row['count']}"
    )


def main() -> None:
    """Evaluates the models named, or every shipped one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=names(), help="names or folders")
    parser.add_argument("--lengths", default="512,1024,2048", help="tokens of a text")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--budgets", default="", help="keys a query in sparse mode")
    parser.add_argument("--count", type=int, default=50, help="samples a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the same numbers")
    given = parser.parse_args()
    budgets = [int(budget) for budget in filter(None, given.budgets.split(","))]
    table = []
    for name, length in product(given.models, given.lengths.split(",")):
        for row in rows(name, int(length), budgets, given):
            print(shown(row), flush=True)
            table.append(row)
    if given.output and table:
        with given.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
