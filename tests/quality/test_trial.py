"""Which trials a protocol asks for."""

from indexer_lab.quality.trial import BASELINES, DENSE, Protocol


def labels(**options):
    protocol = Protocol(("decode",), ("lightning", "exact"), (4,), (), 8, **options)
    return [trial.selector for trial in protocol.trials()]


def test_baselines_come_first_and_once():
    assert labels() == [DENSE, *BASELINES, "lightning"]


def test_a_study_can_leave_baselines_to_another_run_but_never_dense():
    assert labels(baselines=False) == [DENSE, "lightning", "exact"]
