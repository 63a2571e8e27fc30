"""Who sees which bug, on tables made by rule."""

import math

import numpy as np
import pandas as pd
import pytest
from known_bugs import SOUND, finding, signatures, verdict

from study import Finding

PROMPTS = 12
BUGS = {  # bug: recall, mass and output error lost; KL; share of right answers
    "faulty:rope": (0.5, 0.3, 0.4, 0.002, 1.0),
    "faulty:zero": (0.8, 0.8, 0.9, 6.0, 0.0),
    "faulty:weights": (0.0, 0.0, 0.0, 0.0, 1.0),
}


def tables(prompts=PROMPTS):
    """Scores and quality; a prompt's noise is a tenth of what is lost."""
    noise = np.random.default_rng(0)
    scores, quality = [], []
    for number in range(prompts):
        sample = f"p{number}"
        for name, (recall, mass, error, kl, right) in {SOUND: (0, 0, 0, 0, 1.0), **BUGS}.items():
            shake = 1 + 0.1 * noise.standard_normal()
            scores += [
                {"selector": name, "sample": sample, "recall": 0.9 - recall * shake,
                 "mass": 0.9 - mass * shake, "output_error": 0.1 + error * shake}
            ] * 2  # fmt: skip
            run = {"selector": name, "sample": sample, "layer": -1}
            quality.append({**run, "mode": "replay", "kl": 0.001 + kl * shake, "score": np.nan})
            quality.append({**run, "mode": "decode", "kl": np.nan, "score": right})
    return pd.DataFrame(scores), pd.DataFrame(quality)


@pytest.fixture(scope="module")
def table():
    return signatures(*tables(), seed=0)


def seen(table, bug):
    rows = table[table["selector"] == bug]
    return set(rows.loc[rows["seen"], "measure"])


def test_measures_see_what_changes(table):
    assert len(table) == len(BUGS) * 5
    assert seen(table, "faulty:rope") == {"recall", "mass", "output_error", "kl"}
    assert seen(table, "faulty:zero") == {"recall", "mass", "output_error", "kl", "score"}
    assert seen(table, "faulty:weights") == set()
    rope = table.set_index(["selector", "measure"])["loss"]
    assert abs(rope["faulty:rope", "recall"] - 0.5) < 0.05
    assert rope["faulty:zero", "score"] == 1.0


def test_the_first_to_see_needs_the_fewest_prompts(table):
    rows = table[table["selector"] == "faulty:zero"]
    first = rows[rows["first"]]
    assert len(first) >= 1
    assert (first["needed"] == rows["needed"].min()).all()
    assert not table.loc[table["selector"] == "faulty:weights", "first"].any()


def test_a_score_that_misses_a_bug_supports_the_claim(table):
    found = verdict(table)
    assert found.finding is Finding.SUPPORTED
    assert "misses rope" in found.sentence
    assert "see 2, KL 2, the score 1" in found.sentence
    assert any("weights" in each for each in found.caveats)
    names = [number.name for number in found.numbers]
    assert "recall lost to zero" in names
    assert "score lost to rope" in names


def test_a_score_that_sees_all_refutes_it(table):
    table = table[table["selector"] == "faulty:zero"]
    assert verdict(table).finding is Finding.NOT_SUPPORTED
    assert "it misses none" in verdict(table).sentence


def test_too_few_prompts_leave_it_open():
    table = signatures(*tables(prompts=3), seed=0)
    assert verdict(table).finding is Finding.UNDECIDED
    assert not table["seen"].any()
    assert math.isnan(table["needed"].iloc[0])


def test_no_score_at_all_leaves_it_open():
    scores, quality = tables()
    table = signatures(scores, quality.assign(score=np.nan), seed=0)
    assert finding(table, ["faulty:rope"]) is Finding.UNDECIDED
