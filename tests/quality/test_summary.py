"""The quality summary by hand."""

import pandas as pd
import pytest

from indexer_lab.quality.summary import summarise


def row(sample, selector, budget, kl, score, mode="replay", layer=-1):
    facts = {"sample": sample, "mode": mode, "selector": selector, "budget": budget}
    numbers = {"kl": kl, "delta_nll": -kl, "agreement": score, "score": score, "tokens": 3}
    return {**facts, "layer": layer, **numbers}


def test_the_worst_is_on_the_bad_side():
    frame = pd.DataFrame(
        [
            row("a", "exact", 8, 0.1, 1.0),
            row("b", "exact", 8, 0.5, 0.2),
            row("a", "dense", 0, 0.0, 1.0),
            row("b", "dense", 0, 0.0, 1.0),
            row("a", "exact", 8, 0.3, 1.0, layer=2),
        ]
    )
    table = summarise(frame)
    assert table["selector"].tolist() == ["dense", "exact", "exact"]
    assert table["layer"].tolist() == [-1, -1, 2]
    assert table["samples"].tolist() == [2, 2, 1]
    exact = table.iloc[1]
    assert exact["kl_mean"] == pytest.approx(0.3)
    assert exact["kl_worst"] == 0.5
    assert exact["kl_tenth"] == pytest.approx(0.46)
    assert exact["score_worst"] == 0.2
    assert exact["score_tenth"] == pytest.approx(0.28)
