"""indexer-lab demo"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer_lab.cli import options

MODEL = "needle-dsa"
TASKS = ("multi_key", "variable_tracking")
BUDGETS = "2,8,32,128"
SHOWN = 128  # the budget that the terminal and README show; the files hold all
RUN = ("lightning", "quantised:precision=int4", "faiss:HNSW32")
DRAWS = 500
RUN_BUDGETS = "2,8"  # the model answers nearly all on 8 keys: more would change nothing
TOKENS = 16
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
    indexer and its rivals against exact top-k, run the model on what they pick, say how the one
    relates to the other, and draw what came out."""
    from indexer_lab.cli.figures_step import figures_step
    from indexer_lab.cli.quality_step import quality_step
    from indexer_lab.cli.relate_step import relate_step
    from indexer_lab.cli.report_step import report_step
    from indexer_lab.cli.scoring_step import score_step
    from indexer_lab.cli.steps import capture_step, fitting
    from indexer_lab.cli.tables import print_quality, print_summary
    from indexer_lab.cli.validate import validate_step
    from indexer_lab.errors import GateFailed
    from indexer_lab.quality.summary import summarise as summarise_quality
    from indexer_lab.report.words import spoken
    from indexer_lab.summary import KEYS, summarise

    say = _silent if quiet else click.echo
    again: dict[str, Any] = {"resume": resume, "force": force, "quiet": quiet}
    length = fitting(model, length, TOKENS)
    tasks = " and ".join(TASKS)
    say(f"1/7 capture: {model} reads {samples} prompts of {length} tokens for each of {tasks}")
    capture_step(
        model=model,
        output=output / "capture",
        tasks=TASKS,
        length=length,
        samples=samples,
        positions="last:32",
        values=True,
        seed=seed,
        **again,
    )
    proofs = validate_step(output / "capture", quiet)
    if not all(proof.holds for proof in proofs):
        raise GateFailed("the capture does not give back the model's own numbers")
    say(f"2/7 validate: all {len(proofs)} layer records give back the model's own numbers")
    say(f"3/7 score: {len(SELECTORS)} selectors and three baselines at budgets {BUDGETS}")
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
    say(f"4/7 quality: the model on {RUN_BUDGETS} keys of {len(RUN)} selectors and the baselines")
    quality = quality_step(
        model=model,
        output=output / "quality",
        tasks=TASKS,
        length=length,
        samples=samples,
        selectors=RUN,
        budgets=RUN_BUDGETS,
        modes=("replay", "decode"),
        tokens=TOKENS,
        entropy="last:16",
        batch=8,
        seed=seed,
        **again,
    )
    if not quiet:
        print_quality(summarise_quality(quality.frame(), quality.speed()))
    related = relate_step(
        scores=output / "scores",
        quality=output / "quality",
        output=output / "relate",
        target="per_head",
        mode="replay",
        draws=DRAWS,
        seed=seed,
        **again,
    )
    say(f"5/7 relate: {spoken(related.answers['relations'], related.joined.notes)}")
    folders = tuple(output / name for name in ("scores", "quality", "relate"))
    drawn = figures_step(folders=folders, output=output / "figures", quiet=quiet)
    say(
        f"6/7 figures: {len(drawn.made)} in {output / 'figures'}, each with its numbers beside it\n"
    )
    say("What they say:")
    for figure in drawn.made:
        say(f"  {figure.name}.png: {figure.reading}")
    report = output / "report.html"
    report_step(runs=(output / "capture", *folders, output / "figures"), output=report, quiet=quiet)
    say("\n7/7 report: all of this in one file, to open in any browser")
    say(str(report))


def _silent(text: str) -> None:
    """--quiet"""
