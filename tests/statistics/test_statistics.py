"""Known answers: what was planted in a table is what the statistics find in it."""

import numpy as np
import pytest
from scipy import stats

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import bootstrap, resamples
from indexer_lab.statistics.correlation import correlate, correlation
from indexer_lab.statistics.holm import holm
from indexer_lab.statistics.prediction import compare_predictors, deal
from indexer_lab.statistics.threshold import crossing, monotone, threshold

DRAWS = 300


def planted(rho, prompts=80, rows=4, seed=0):
    """x, y with correlation rho; each also has a shift of its own for every prompt."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(prompts, rows)) + draw.normal(size=(prompts, 1))
    noise = draw.normal(size=(prompts, rows)) + draw.normal(size=(prompts, 1))
    y = rho * x + np.sqrt(1 - rho**2) * noise
    return x.ravel(), y.ravel(), np.repeat(np.arange(prompts), rows)


@pytest.mark.parametrize("rho", [-0.7, 0.3, 0.9])
def test_a_planted_correlation_is_recovered(rho):
    x, y, prompt = planted(rho)
    found = correlate(x, y, prompt, "pearson", draws=1000, level=0.99)
    assert found.low < rho < found.high
    assert found.high - found.low < 0.5
    assert found.p < 0.05
    assert found.clusters == 80
    spearman = 6 / np.pi * np.arcsin(rho / 2)  # of two normals
    ranked = correlate(x, y, prompt, "spearman", draws=1000, level=0.99)
    assert ranked.low < spearman < ranked.high


def test_correlations_are_scipys():
    x, y, _ = planted(0.5)
    y = np.round(y, 1)  # ties
    assert correlation(x, y, "pearson") == pytest.approx(stats.pearsonr(x, y).statistic)
    assert correlation(x, y, "spearman") == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_a_planted_confounder_is_removed(method):
    draw = np.random.default_rng(2)
    length = draw.normal(size=300)
    x, y = length + 0.5 * draw.normal(size=300), -length + 0.5 * draw.normal(size=300)
    prompt = np.arange(300) // 3
    plain = correlate(x, y, prompt, method, draws=DRAWS)
    held = correlate(x, y, prompt, method, held=length, draws=DRAWS)
    assert plain.high < -0.6
    assert held.low < 0 < held.high
    assert abs(held.estimate) < 0.15


def test_a_partial_correlation_is_the_textbooks():
    x, y, _ = planted(0.4)
    z = x - y + np.random.default_rng(1).normal(size=len(x))
    xy, xz, yz = (correlation(a, b, "pearson") for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert correlation(x, y, "pearson", z[:, None]) == pytest.approx(expected)
    twice = np.stack([z, 3 * z + 1, np.ones_like(z)], axis=1)  # nothing new in the others
    assert correlation(x, y, "pearson", twice) == pytest.approx(expected)
    assert np.isnan(correlation(x, y, "pearson", x[:, None]))


def test_no_effect_is_covered_at_the_nominal_rate():
    """300 tables without an effect; a 90 % interval must hold zero in about 90 % of them."""
    covered = naive = 0
    for table in range(300):
        draw = np.random.default_rng(1000 + table)
        prompt = np.repeat(np.arange(40), 5)
        x = np.repeat(draw.normal(size=40), 5)  # both differ between prompts only
        y = np.repeat(draw.normal(size=40), 5)
        found = correlate(x, y, prompt, "pearson", draws=200, seed=table, level=0.9)
        covered += found.low <= 0 <= found.high
        alone = correlate(x, y, np.arange(200), "pearson", draws=60, seed=table, level=0.9)
        naive += alone.low <= 0 <= alone.high
    assert 0.83 <= covered / 300 <= 0.97  # four standard errors of 300 tables are 0.07
    assert naive / 300 < 0.7  # rows taken for independent: what the clusters are there for


def test_resamples_keep_clusters_whole_and_repeat_by_seed():
    prompt = np.array(["b", "a", "b", "c", "a"])
    first = [rows.tolist() for rows in resamples(prompt, 20, 3)]
    assert first == [rows.tolist() for rows in resamples(prompt, 20, 3)]
    assert first != [rows.tolist() for rows in resamples(prompt, 20, 4)]
    for rows in first:
        assert rows.count(0) == rows.count(2)
        assert rows.count(1) == rows.count(4)
        assert sum(len({prompt[row]}) / (prompt == prompt[row]).sum() for row in rows) == 3


def test_what_the_data_cannot_say_is_said():
    few = correlate([1, 2, 3, 4], [2, 1, 4, 3], [0, 0, 1, 1])
    assert few.reason == "only 2 prompts; an interval needs 5"
    assert np.isnan(few.low)
    assert not np.isnan(few.estimate)
    constant = correlate(np.ones(20), np.arange(20), np.arange(20))
    assert constant.reason == "the data do not determine it"
    sparse = np.r_[1.0, np.zeros(19)]  # a resample misses the one row in 36 % of the draws
    assert "resamples do not" in correlate(sparse, np.arange(20), np.arange(20)).reason
    with pytest.raises(InputError, match="columns of 3, 2 and 3"):
        correlate([1, 2, 3], [1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="level 1"):
        bootstrap(lambda rows: 0.0, [1, 2], level=1)


def test_rows_with_a_hole_are_left_out():
    x, y, prompt = planted(0.5)
    whole = correlate(x[4:], y[4:], prompt[4:], draws=DRAWS)
    x[:4] = np.nan
    assert correlate(x, y, prompt, draws=DRAWS) == whole


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, np.nan, 0.9]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert len(holm([])) == 0


def test_monotone_and_crossing_by_hand():
    curve = monotone(np.array([0.0, 1, 1, 2, 3]), np.array([0.0, 0.4, 0.6, 0.3, 1.0]))
    assert curve.x.tolist() == [0, 1, 2, 3]
    assert curve.fit == pytest.approx([0, 1.3 / 3, 1.3 / 3, 1])
    assert crossing(curve, 1.3 / 6) == pytest.approx(0.5)
    assert crossing(curve, 1.0) == pytest.approx(3)
    assert crossing(curve, 1.01) == np.inf
    assert crossing(curve, 0.0) == -np.inf


def test_a_planted_threshold_is_recovered():
    draw = np.random.default_rng(4)
    levels = np.linspace(0, 1, 11)
    prompt = np.repeat(np.arange(200), 11)
    x = np.tile(levels, 200)
    chance = np.minimum(1, x / 0.7) * 0.9  # 95 % of 0.9 is reached at x = 0.665
    quality = (draw.random(len(x)) < chance).astype(float)
    dense = np.repeat((draw.random(200) < 0.9).astype(float), 11)
    found = threshold(x, quality, dense, prompt, draws=DRAWS)
    assert found.low <= 0.665 <= found.high
    assert 0 < found.high - found.low < 0.4
    again = threshold(x, quality, dense, prompt, draws=DRAWS)
    assert (found.estimate, found.low, found.high) == (again.estimate, again.low, again.high)


def test_a_threshold_beyond_the_data_is_not_made_up():
    prompt, x = np.repeat(np.arange(30), 4), np.tile([0.2, 0.4, 0.6, 1.0], 30)
    always = threshold(x, np.ones(120), np.ones(120), prompt, draws=DRAWS)
    assert always.estimate == -np.inf
    assert "down to the smallest" in always.reason
    never = threshold(x, 0.5 * np.ones(120), np.ones(120), prompt, draws=DRAWS)
    assert never.estimate == np.inf
    assert "never reaches 95%" in never.reason
    assert "2 distinct x" in threshold(x > 0.5, x, x, prompt).reason
    assert "dense quality is 0" in threshold(x, x, 0 * x, prompt).reason


def test_the_planted_predictor_wins_whatever_its_scale():
    draw = np.random.default_rng(5)
    mass = draw.random(400)
    prompt = np.arange(400) // 4
    quality = mass**3 + 0.05 * draw.normal(size=400)
    columns = {
        "recall": mass + 0.4 * draw.normal(size=400),
        "mass": np.exp(5 * mass),  # another monotone scale of the cause
        "noise": draw.random(400),
        "output_error": 1 - mass + 0.05 * draw.normal(size=400),  # falling
    }
    ranked = compare_predictors(columns, quality, prompt, draws=DRAWS)
    assert [each.name for each in ranked] == ["mass", "output_error", "recall", "noise"]
    best, close, _, useless = ranked
    assert best.r2.low > 0.9
    assert best.behind.estimate == 0
    assert np.isnan(best.behind.p)
    assert close.behind.low > 0
    assert close.behind.p < 0.05
    assert useless.r2.estimate < 0.05


def test_folds_hold_whole_prompts():
    prompt = np.repeat(["a", "b", "c", "d", "e", "f"], [1, 2, 3, 4, 5, 6])
    fold = deal(prompt, 3, seed=1)
    assert all(len(set(fold[prompt == name])) == 1 for name in prompt)
    assert sorted(len(set(prompt[fold == part])) for part in range(3)) == [2, 2, 2]
    with pytest.raises(InputError, match="7 folds of 6 prompts"):
        deal(prompt, 7, seed=0)
