"""The quality summary by hand."""

import pandas as pd
import pytest

from indexer_lab.quality.summary import KEYS, summarise


def speed_of(frame, **changes):
    """Every row at ten tokens a second, alone."""
    facts = frame[[*KEYS, "sample"]]
    return facts.assign(tokens=20, seconds=2.0, batch=1, **changes)


def row(sample, selector, budget, kl, score, mode="replay", layer=-1):
    facts = {"sample": sample, "mode": mode, "selector": selector, "budget": budget}
    numbers = {"kl": kl, "delta_nll": -kl, "agreement": score, "score": score, "tokens": 3}
    numbers["bits_per_byte"] = kl
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
    table = summarise(frame, speed_of(frame))
    assert table["selector"].tolist() == ["dense", "exact", "exact"]
    assert table["layer"].tolist() == [-1, -1, 2]
    assert table["samples"].tolist() == [2, 2, 1]
    exact = table.iloc[1]
    assert exact["kl_mean"] == pytest.approx(0.3)
    assert exact["kl_worst"] == 0.5
    assert exact["kl_tenth"] == pytest.approx(0.46)
    assert exact["score_worst"] == 0.2
    assert exact["score_tenth"] == pytest.approx(0.28)


def test_speed_is_all_tokens_over_all_time_beside_dense():
    frame = pd.DataFrame(
        [row(sample, selector, 8, 0.1, 1.0) for sample in "ab" for selector in ("dense", "exact")]
    )
    speed = speed_of(frame)
    exact = speed["selector"] == "exact"
    speed.loc[exact, "seconds"] = [2.0, 6.0]
    table = summarise(frame, speed).set_index("selector")
    assert table.loc["dense", "tokens_per_second"] == 10
    assert table.loc["exact", "tokens_per_second"] == 5
    assert table.loc["exact", "speed_ratio"] == 0.5


def test_what_ran_side_by_side_shared_its_time():
    frame = pd.DataFrame([row(sample, "dense", 0, 0.1, 1.0) for sample in "ab"])
    speed = speed_of(frame).assign(batch=2)  # 40 tokens in one run of 2 s
    assert summarise(frame, speed)["tokens_per_second"].tolist() == [20]
