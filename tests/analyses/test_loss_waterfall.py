"""Where mass is lost: the sum of the steps and the verdict, on tables made by hand."""

import pandas as pd
import pytest
from loss_waterfall import Losses, judge

from indexer_figures import Choice, FigureError
from indexer_lab.errors import InputError
from study import Finding

STEPS = ("lightning", "lightning:precision=fp8")
BUDGET = Choice(budget=8, selectors=STEPS)


def scores(per_head, head_sum, lightning, fp8, prompts=6):
    """Masses of even and odd layers; each prompt's layers lose a little more than the last's."""
    rows = []
    for prompt in range(prompts):
        for layer in (0, 1):
            for selector, target, masses in (
                ("exact", "per_head", per_head),
                ("exact", "head_sum", head_sum),
                ("lightning", "per_head", lightning),
                ("lightning", "head_sum", lightning),
                ("lightning:precision=fp8", "per_head", fp8),
            ):
                base = {"sample": f"p{prompt}", "task": "t", "level": "token", "head": 0}
                base |= {"position": 50, "budget": 8, "trivial": False, "layer": layer}
                mass = masses[layer] - 0.001 * prompt * (selector != "exact")
                rows.append({**base, "selector": selector, "target": target, "mass": mass})
    return pd.DataFrame(rows)


def test_steps_are_exact_differences_and_sum_to_the_loss():
    frame = scores((0.9, 0.8), (0.8, 0.7), (0.75, 0.55), (0.75, 0.53), prompts=1)
    losses = Losses.of(frame, BUDGET)
    by_layer = losses.by_layer.set_index("layer")
    assert by_layer.loc[0].to_dict() == pytest.approx(
        {"budget": 0.1, "sharing": 0.1, "indexer": 0.05, "fp8": 0.0, "total": 0.25}
    )
    assert by_layer.loc[1].to_dict() == pytest.approx(
        {"budget": 0.2, "sharing": 0.1, "indexer": 0.15, "fp8": 0.02, "total": 0.47}
    )
    assert losses.by_prompt.loc["p0"].to_dict() == pytest.approx(
        {"budget": 0.15, "sharing": 0.1, "indexer": 0.1, "fp8": 0.01, "total": 0.36}
    )


def test_steps_that_do_not_sum_are_refused(monkeypatch):
    frame = scores((0.9, 0.8), (0.8, 0.7), (0.75, 0.55), (0.75, 0.53))
    monkeypatch.setattr(
        "loss_waterfall.step_rows", lambda *given: _tampered(__import__(
            "indexer_figures.loss_waterfall", fromlist=["step_rows"]).step_rows(*given))
    )  # fmt: skip
    with pytest.raises(InputError, match="do not sum to the loss"):
        Losses.of(frame, BUDGET)


def _tampered(found):
    scope, rows = found
    return scope, rows.assign(loss=rows["loss"] + 1e-4)


def test_a_step_that_misses_rows_is_refused():
    frame = scores((0.9, 0.8), (0.8, 0.7), (0.75, 0.55), (0.75, 0.53))
    with pytest.raises(FigureError, match="fp8' was not scored on the rows"):
        Losses.of(frame.iloc[:-1], BUDGET)


@pytest.mark.parametrize(
    ("lightning", "fp8", "finding"),
    [
        ((0.77, 0.67), (0.769, 0.669), Finding.SUPPORTED),
        ((0.60, 0.50), (0.599, 0.499), Finding.NOT_SUPPORTED),  # the indexer loses more
        ((0.77, 0.67), (0.74, 0.64), Finding.NOT_SUPPORTED),  # rounding loses as much
    ],
)
def test_both_parts_of_the_claim_decide(lightning, fp8, finding):
    frame = scores((0.9, 0.8), (0.8, 0.7), lightning, fp8)
    assert judge(Losses.of(frame, BUDGET)).finding is finding


def test_few_prompts_or_another_chain_leave_it_open():
    frame = scores((0.9, 0.8), (0.8, 0.7), (0.77, 0.67), (0.769, 0.669), prompts=3)
    few = judge(Losses.of(frame, BUDGET))
    assert few.finding is Finding.UNDECIDED
    other = judge(Losses.of(frame, Choice(budget=8, selectors=("lightning",))))
    assert other.finding is Finding.UNDECIDED
    assert "has not all of them" in other.caveats[0]
    assert "indexer" in other.sentence
