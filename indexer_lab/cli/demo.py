"""indexer-lab demo"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options

MODEL = "needle-dsa"
TASKS = ("multi_key", "variable_tracking")
BUDGETS = "32,64,128,256"
SHOWN = 128  # the budget that the terminal shows; the files hold all
TARGETS = ("head_sum", "per_head")
SELECTORS = (
    "lightning",
    "lightning:precision=fp8",
    "lightning:precision=fp4",
    "exact:best_shared",
    "quantised:precision=int4",
    "faiss:IVF64,Flat:nprobe=8",
    "faiss:HNSW32",
)


@click.command("demo", short_help="The whole way on a shipped model.")
@click.option("--model", default=MODEL, show_default=True, help="A model with an indexer.")
@click.option("--length", type=int, default=2048, show_default=True, help="Tokens of a prompt.")
@click.option("--samples", type=int, default=2, show_default=True, help="Prompts per task.")
@options.seed
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for everything.",
)
@options.rerun
@click.option("--quiet", is_flag=True, help="No progress, no table.")
def command(
    model: str,
    length: int,
    samples: int,
    seed: int,
    output: Path,
    resume: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Capture a trained model with a Lightning Indexer on real text, prove the capture, hold the
    indexer and its rivals against exact top-k, and draw what came out."""
    from indexer_lab.cli.figures_step import figures_step
    from indexer_lab.cli.scoring_step import score_step
    from indexer_lab.cli.steps import capture_step
    from indexer_lab.cli.tables import print_summary
    from indexer_lab.cli.validate import validate_step
    from indexer_lab.errors import GateFailed
    from indexer_lab.summary import KEYS, summarise

    say = _silent if quiet else click.echo
    again: dict[str, Any] = {"resume": resume, "force": force, "quiet": quiet}
    say(f"1/4 capture: {model} reads {samples} prompts of {length} tokens for each of {TASKS}")
    capture_step(
        model=model,
        output=output / "capture",
        tasks=TASKS,
        length=length,
        samples=samples,
        positions="last:64",
        values=True,
        seed=seed,
        **again,
    )
    proofs = validate_step(output / "capture", quiet)
    if not all(proof.holds for proof in proofs):
        raise GateFailed("the capture does not give back the model's own numbers")
    say(f"2/4 validate: all {len(proofs)} layer records give back the model's own numbers")
    say(f"3/4 score: {len(SELECTORS)} selectors and three baselines at budgets {BUDGETS}")
    scores = score_step(
        capture=output / "capture",
        output=output / "scores",
        selectors=SELECTORS,
        budgets=BUDGETS,
        targets=TARGETS,
        **again,
    )
    if not quiet:
        shown = ["recall", "mass"]
        summary = summarise(scores.frame([*KEYS, "trivial", "sets", *shown]), shown)
        print_summary(summary[summary["budget"] == SHOWN], shown)
    drawn = figures_step(folders=(output / "scores",), output=output / "figures", quiet=quiet)
    say(
        f"4/4 figures: {len(drawn.made)} in {output / 'figures'}, each with its numbers beside it\n"
    )
    say("What they say:")
    for figure in drawn.made:
        say(f"  {figure.name}.png: {figure.reading}")
    say(f"\nLook first at {output / 'figures' / 'recall_by_layer.png'}")


def _silent(text: str) -> None:
    """--quiet"""
