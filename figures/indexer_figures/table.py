"""The table of figures: a new one is one file and one line here."""

from indexer_figures.by_budget import ByBudget
from indexer_figures.by_condition import ByCondition
from indexer_figures.by_cost import ByCost
from indexer_figures.by_distance import ByDistance
from indexer_figures.by_entropy import ByEntropy
from indexer_figures.by_layer import ByLayer
from indexer_figures.entropy_by_layer import EntropyByLayer
from indexer_figures.entropy_spread import EntropySpread
from indexer_figures.heat_map import HeatMap
from indexer_figures.kind import FigureKind
from indexer_figures.loss_by_measure import LossByMeasure
from indexer_figures.loss_waterfall import LossWaterfall
from indexer_figures.panels import Panels
from indexer_figures.quality_by_entropy import QualityByEntropy
from indexer_figures.quality_by_precision import QualityByPrecision
from indexer_figures.quality_by_ratio import QualityByRatio
from indexer_figures.swap_by_layer import SwapByLayer

FIGURES: dict[str, FigureKind] = {
    "recall_by_layer": ByLayer("recall"),
    "mass_by_layer": ByLayer("mass"),
    "recall_heat_map": HeatMap(),
    "recall_by_budget": ByBudget("recall"),
    "mass_by_budget": ByBudget("mass"),
    "recall_by_bytes": ByCost("bytes_read"),
    "recall_by_multiply_adds": ByCost("multiply_adds"),
    "mass_by_bytes": ByCost("bytes_read", "mass"),
    "mass_by_multiply_adds": ByCost("multiply_adds", "mass"),
    "recall_by_distance": ByDistance(),
    "fidelity_by_condition": ByCondition(),
    "loss_waterfall": LossWaterfall(),
    "entropy_by_layer": EntropyByLayer(),
    "recall_by_entropy": ByEntropy(),
    "quality_by_precision": QualityByPrecision(),
    "quality_by_budget_ratio": QualityByRatio(),
    "kl_by_swapped_layer": SwapByLayer(),
    "entropy_distribution": EntropySpread(),
    "quality_by_entropy": QualityByEntropy(),
    "loss_by_measure": LossByMeasure(),
    "gain_by_ratio": Panels(
        "What top-k training gains, by budget ratio",
        "Does training with top-k attention help top-k decoding?",
        "budget over tokens of the prompt",
        ratio=True,
        zero=("the model trained with top-k does better", "the one trained with full attention"),
    ),
    "entropy_by_model": Panels(
        "Attention entropy of two models (nats)",
        "Does top-k training narrow attention?",
        "layer",
    ),
}

SOURCES: dict[str, str] = {
    "quality_by_precision": "pairs",
    "quality_by_budget_ratio": "quality",
    "kl_by_swapped_layer": "quality",
    "entropy_distribution": "entropy",
    "quality_by_entropy": "quality",
    "loss_by_measure": "study",
    "gain_by_ratio": "study",
    "entropy_by_model": "study",
}
"""What a figure reads where it is not a score table: the pairs of a relation, quality rows (with
each sample's `entropy`), entropy rows, or a table that a script of analyses/ makes."""


def source_of(name: str) -> str:
    """The kind of table that a figure reads."""
    return SOURCES.get(name, "scores")
