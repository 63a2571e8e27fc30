"""`indexer-lab check` on score folders whose numbers are written by hand."""

import json

import pytest
from click.testing import CliRunner

from indexer_lab.cli import main
from indexer_lab.scoring import SCHEMA
from indexer_lab.store import scores
from indexer_lab.store.capture import SampleInfo

from ..lab.test_relate_command import table

SAMPLE = SampleInfo("a", "niah", 40)


def check(*words):
    return CliRunner().invoke(main, ["check", *(str(word) for word in words)])


def row(recall, layer=0, head=0, position=30, **more):
    base = {"sample": "a", "task": "niah", "length": 40, "layer": layer, "head": head,
            "position": position, "visible": position + 1, "budget": 4, "sets": 1,
            "trivial": False, "selector": "lightning", "target": "head_sum", "level": "token",
            "recall": recall, "mass": recall, "kl": recall and 1 - recall}  # fmt: skip
    return {**base, **more}


ROWS = [
    row(1.0, layer=0, head=0), row(0.9, layer=0, head=1),
    row(0.8, layer=2, head=0), row(0.5, layer=2, head=1),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A function that writes rows as a finished score folder."""

    def write(rows, name="scores"):
        layers = sorted({each["layer"] for each in rows})
        kept = scores.create(tmp_path / name, {"model": "m", "layers": layers, "samples": 1})
        for layer in layers:
            here = [each for each in rows if each["layer"] == layer]
            kept.save(SAMPLE, layer, table(here, SCHEMA))
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("gate", "value", "code"),
    [
        (("--min", "recall=0.8"), 0.8, 0),
        (("--min", "recall=0.81"), 0.8, 1),
        (("--min", "recall.min=0.5"), 0.5, 0),
        (("--min", "recall.median=0.85"), 0.85, 0),
        (("--min", "recall.median=0.86"), 0.85, 1),
        (("--min", "recall.p10=0.59"), 0.59, 0),
        (("--max", "kl.max=0.5"), 0.5, 0),
        (("--max", "kl.max=0.4"), 0.5, 1),
        (("--max", "recall.p90=0.97"), 0.97, 0),
    ],
)
def test_aggregates_by_hand(folder, gate, value, code):
    done = check(folder(ROWS), *gate, "--json")
    assert done.exit_code == code, done.output
    (ruling,) = json.loads(done.stdout)
    assert ruling["value"] == pytest.approx(value, abs=1e-6)
    assert ruling["passed"] is (code == 0)
    assert ruling["rows"] == 4


def test_a_failure_says_what_where_and_by_how_much(folder):
    done = check(folder(ROWS), "--min", "recall=0.9")
    assert done.exit_code == 1
    assert "FAILED  recall mean ≥ 0.9: lightning, target head_sum, 4 keys: 0.8" in done.stdout
    assert "0.1 under; worst in layer 2, head 1: 0.5" in done.stdout
    assert done.stderr.startswith("error: 1 of 1 gates failed; the first")
    assert "gates hold" not in done.stdout
    passed = check(folder(ROWS, "b"), "--min", "recall=0.7")
    assert passed.exit_code == 0
    assert passed.stdout.endswith("all 1 gates hold\n")


def test_each_layer_alone(folder):
    done = check(folder(ROWS), "--min", "recall=0.8", "--per", "layer", "--json")
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)
    assert (first["case"]["layer"], first["passed"]) == (0, True)
    assert (second["case"]["layer"], second["passed"]) == (2, False)
    assert second["short"] == pytest.approx(0.15, abs=1e-6)
    assert check(folder(ROWS, "b"), "--min", "recall=0.9", "--layers", "0").exit_code == 0


def test_trivial_rows_are_left_out_and_counted(folder):
    rows = [*ROWS, row(1.0, position=2, trivial=True)]
    done = check(folder(rows), "--min", "recall=0.8", "--json")
    (ruling,) = json.loads(done.stdout)
    assert ruling["trivial"] == pytest.approx(0.2)
    assert ruling["rows"] == 4
    text = check(folder(rows, "b"), "--min", "recall=0.8").stdout
    assert "4 rows, 20.0 % trivial left out" in text


def test_selectors_budgets_and_targets_are_never_pooled(folder):
    rows = [*ROWS, *(row(0.2, budget=8) for _ in "ab"), row(0.1, target="per_head"),
            row(0.3, selector="other"), row(0.0, selector="random")]  # fmt: skip
    done = check(folder(rows), "--min", "recall=0.8", "--json")
    rulings = json.loads(done.stdout)
    assert [(r["case"]["selector"], r["case"]["target"], r["case"]["budget"], r["passed"])
            for r in rulings] == [
        ("lightning", "head_sum", 4, True), ("lightning", "head_sum", 8, False),
        ("lightning", "per_head", 4, False), ("other", "head_sum", 4, False)]  # fmt: skip
    narrow = ("--selector", "random", "--budget", "4", "--target", "head_sum")
    assert check(folder(rows, "b"), "--max", "recall=0.1", *narrow).exit_code == 0


def test_units_are_asked_apart_from_tokens(folder):
    done = check(folder([*ROWS, row(0.1, level="unit")]), "--min", "recall=0.8")
    assert done.exit_code == 1
    assert "FAILED  recall mean ≥ 0.8: lightning, target head_sum, 4 units: 0.1" in done.stdout
    assert "ok      recall mean ≥ 0.8: lightning, target head_sum, 4 keys: 0.8" in done.stdout


def test_a_missing_number_never_passes(folder):
    rows = [*ROWS[:3], row(None, layer=2, head=1, mass=0.9)]
    done = check(folder(rows), "--min", "recall=0.1")
    assert done.exit_code == 1
    assert "1 rows hold no number; worst in layer 2, head 1" in done.stdout
    for measure in ("recall_sink", "output_error"):
        nothing = check(folder(rows, measure), "--min", f"{measure}=0.1")
        assert nothing.exit_code == 2
        assert f"a gate over nothing: {measure} holds no number" in nothing.stderr


def test_a_gate_over_nothing_is_an_error(folder):
    trivial = [row(1.0, trivial=True), row(1.0, layer=2)]
    done = check(folder(trivial), "--min", "recall=0.1", "--per", "layer")
    assert done.exit_code == 2
    assert "a gate over nothing: all 1 rows of" in done.stderr
    baselines = check(folder([row(1.0, selector="exact")], "b"), "--min", "recall=0.1")
    assert baselines.exit_code == 2
    assert "no row is left but those of the baselines" in baselines.stderr


def test_an_unfinished_run_cannot_pass(folder):
    path = folder(ROWS)
    (path / "parts" / "a" / "layer-02.parquet").unlink()
    done = check(path, "--min", "recall=0.1")
    assert done.exit_code == 2
    assert "1 of 2 parts" in done.stderr


def test_gates_from_a_file_have_their_own_rows(folder, tmp_path):
    rows = [*ROWS, row(0.2, selector="other", budget=8)]
    gates = tmp_path / "gates.yaml"
    gates.write_text(
        "gates:\n"
        "- {measure: recall, min: 0.5, selector: lightning, layer: 2, per: [head]}\n"
        "- {measure: recall, aggregate: max, max: 0.2, selectors: [other], budget: 8}\n"
    )
    done = check(folder(rows), "--gates", gates, "--json")
    assert done.exit_code == 0, done.output
    assert [ruling["case"].get("head") for ruling in json.loads(done.stdout)] == [0, 1, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read as YAML"),
        ("a: 1", "holds no gates"),
        ("[]", "holds no gates"),
        ("- 3", "gate 1: expected fields"),
        ("- {measure: recall}", "one of `min` and `max`"),
        ("- {measure: recall, min: 0, max: 1}", "one of `min` and `max`"),
        ("- {measure: recal, min: 0}", "did you mean 'recall'"),
        ("- {measure: recall, min: true}", "no finite number"),
        ("- {measure: recall, min: .nan}", "no finite number"),
        ("- {measure: recall, min: 1, aggregate: p5}", "unknown aggregate 'p5'"),
        ("- {measure: recall, min: 1, budget: four}", "expected whole numbers"),
        ("- {measure: recall, min: 1, per: laier}", "did you mean 'layer'"),
        ("- {measure: recall, min: 1, selektor: a}", "did you mean 'selector'"),
        ("- {measure: recall, min: 1, selector: nobody}", "unknown selector 'nobody'"),
    ],
)
def test_a_wrong_file_is_one_line(folder, tmp_path, text, said):
    (tmp_path / "gates.yaml").write_text(text)
    done = check(folder(ROWS), "--gates", tmp_path / "gates.yaml")
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no gate"),
        (("--min", "recall"), "expected MEASURE=NUMBER"),
        (("--min", "recall=high"), "no finite number"),
        (("--min", "recall=nan"), "no finite number"),
        (("--min", "recall.p2=1"), "unknown aggregate 'p2'"),
        (("--min", "recall=1", "--budget", "5"), "unknown budget '5'"),
        (("--min", "recall=1", "--layers", "1"), "unknown layer '1'"),
        (("--min", "recall=1", "--target", "per_hed"), "unknown target"),
        (("--tolerance", "0.1"), "need --against"),
        (("--gates", "absent.yaml"), "that file does not exist"),
        (("--against", "absent"), "that folder does not exist"),
    ],
)
def test_a_wrong_word_is_one_line(folder, words, said):
    done = check(folder(ROWS), *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def worse(by, **where):
    """ROWS with recall, mass and kl worse in the rows that `where` names."""
    return [
        {
            **each,
            **{"recall": each["recall"] - by, "mass": each["mass"] - by, "kl": each["kl"] + by},
        }
        if all(each[name] == value for name, value in where.items())
        else each
        for each in ROWS
    ]


def test_a_port_must_keep_to_its_reference_in_every_layer(folder):
    reference = folder(ROWS, "reference")
    assert check(folder(ROWS, "same"), "--against", reference).exit_code == 0
    port = folder(worse(0.1, layer=2, head=0), "port")
    done = check(port, "--against", reference, "--json")
    assert done.exit_code == 1
    rulings = json.loads(done.stdout)
    assert [(r["case"]["layer"], r["passed"]) for r in rulings] == [
        (0, True), (0, True), (2, False), (2, False)]  # fmt: skip
    assert rulings[2]["short"] == pytest.approx(0.05, abs=1e-6)
    assert check(port, "--against", reference, "--tolerance", "0.05").exit_code == 0
    assert check(port, "--against", reference, "--tolerance", "recall.min=0.05").exit_code == 0
    assert check(port, "--against", reference, "--tolerance", "kl.max=0").exit_code == 0
    assert check(port, "--against", reference, "--tolerance", "kl=0.04").exit_code == 1
    better = folder(worse(-0.1, layer=2), "better")
    assert check(better, "--against", reference).exit_code == 0


def test_the_reference_may_have_another_name(folder):
    port = folder([{**each, "selector": "recorded:x"} for each in ROWS], "port")
    reference = folder(ROWS, "reference")
    refused = check(port, "--against", reference)
    assert refused.exit_code == 2
    assert "--against-selector" in refused.stderr
    assert check(port, "--against", reference, "--against-selector", "lightning").exit_code == 0


def test_what_is_not_there_cannot_pass(folder):
    reference = folder(ROWS, "reference")
    fewer = folder(ROWS[:2], "fewer")
    done = check(fewer, "--against", reference)
    assert done.exit_code == 2
    assert "layer 2 of the reference is not in these scores" in done.stderr
    assert check(fewer, "--against", reference, "--layers", "0").exit_code == 0
    for change, said in (
        ({"length": 41}, "41 tokens here and 40 in the reference"),
        ({"sample": "b"}, "share no prompt"),
        ({"position": 29}, "no row of layer 0 is in both"),
    ):
        other = folder([{**each, **change} for each in ROWS], f"other-{next(iter(change))}")
        done = check(other, "--against", reference)
        assert done.exit_code == 2, done.output
        assert said in done.stderr


def test_measures_without_a_better_side_cannot_be_compared(folder):
    done = check(folder(ROWS), "--against", folder(ROWS, "r"), "--tolerance", "entropy=0.1")
    assert done.exit_code == 2
    assert "unknown measure with a better and a worse 'entropy'" in done.stderr
