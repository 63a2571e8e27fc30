"""The neighbours' claims, judged on tables made by rule."""

import math

import numpy as np
import pandas as pd
import pytest
from neighbours import PARTS, WINDOWS, exposed, judged, summary, verdict

from indexer_lab.store.capture import SampleInfo, create
from study import Finding

from ..selectors.test_spec_attn import record

MASS = {"sp_attention": 0.1, "sink_recent": 0.5, "quest": 0.4, "spec_attn": 0.6, "retro": 0.4}
KL = {"sp_attention": 9.0, "sink_recent": 5.0, "quest": 1.0, "spec_attn": 0.3, "retro": 0.8}


def tables(mass=MASS, kl=KL, prompts=10, own=0.0):
    """own: what a draft holds more in layer 1, which is its own, than in layer 5."""
    draw = np.random.default_rng(1)
    rows, lived = [], []
    for number in range(prompts):
        for selector, held in mass.items():
            for budget in (32, 256):
                for layer, shift in ((1, own), (5, 0.0)):
                    shaken = held + 0.02 * draw.standard_normal()
                    shaken += shift if selector == "spec_attn" else 0.0
                    rows.append((selector, f"p{number}", budget, layer, False, shaken))
        for selector, nats in kl.items():
            shaken = nats * (1 + 0.05 * draw.standard_normal())
            lived.append((selector, f"t{number}", 32, "source_text", "replay", shaken, np.nan))
            lived.append((selector, f"p{number}", 32, "multi_key", "decode", np.nan, 1.0))
    columns = ["selector", "sample", "budget", "task", "mode", "kl", "score"]
    return (
        pd.DataFrame(rows, columns=["selector", "sample", "budget", "layer", "trivial", "mass"]),
        pd.DataFrame(lived, columns=columns),
    )


def exposure():
    columns = ["window", "load", "ratio", "low", "high", "prompts"]
    return pd.DataFrame([(w, 32, 1.2, 1.1, 1.3, 10) for w in WINDOWS], columns=columns)


def found(**changes):
    parts = judged(*tables(**changes), (32, 256), drafted=4, seed=0)
    return verdict(parts, exposure())


def test_all_three_as_claimed():
    told = found()
    assert told.finding is Finding.SUPPORTED
    assert told.sentence.count("supported") == len(PARTS)
    assert len(told.numbers) == 5
    assert told.numbers[0].estimate == pytest.approx(0.4, abs=0.03)


def test_one_that_fails_fails_the_claim_and_is_named():
    told = found(kl={**KL, "retro": 1.5})
    assert told.finding is Finding.NOT_SUPPORTED
    assert "same load: not supported" in told.sentence
    assert "bands hold less mass than sink+recent: supported" in told.sentence


def test_layers_that_the_draft_shares_do_not_count():
    poor = {**MASS, "spec_attn": 0.3}
    assert found(mass=poor, own=0.7).finding is Finding.NOT_SUPPORTED


def test_one_that_is_open_leaves_it_open():
    assert found(kl={**KL, "retro": 1.0}).finding is Finding.UNDECIDED
    assert found(prompts=3).finding is Finding.UNDECIDED


def test_the_summary_has_each_measure_on_its_own_prompts():
    table = summary(*tables(), seed=0)
    counts = table.groupby("measure")["selector"].nunique().to_dict()
    assert counts == {"kl": 5, "mass": 5, "score": 5}
    quest = table[(table["measure"] == "kl") & (table["selector"] == "quest")].iloc[0]
    assert quest["low"] < quest["mean"] < quest["high"]
    assert quest["mean"] == pytest.approx(1.0, abs=0.1)


def test_exposure_counts_the_union(tmp_path):
    samples = [SampleInfo(f"s{n}", "noise", 96) for n in range(2)]
    capture = create(tmp_path / "capture", {"layers": [0], "model": "made-up"}, samples)
    for number, sample in enumerate(samples):
        capture.save(sample, record(0, 2, number, keys=96))
    table = exposed(capture, load=16, page=4)
    assert table["window"].tolist() == [2, 4]  # seven queries hold no eight steps
    assert 1 < table["ratio"].iloc[0] < table["ratio"].iloc[1] < 4
    assert math.isnan(table["low"].iloc[0])  # two prompts
