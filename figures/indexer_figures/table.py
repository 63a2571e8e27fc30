"""The table of figures: a new one is one file and one line here."""

from indexer_figures.by_budget import ByBudget
from indexer_figures.by_cost import ByCost
from indexer_figures.by_distance import ByDistance
from indexer_figures.by_entropy import ByEntropy
from indexer_figures.by_layer import ByLayer
from indexer_figures.entropy_by_layer import EntropyByLayer
from indexer_figures.heat_map import HeatMap
from indexer_figures.kind import FigureKind

FIGURES: dict[str, FigureKind] = {
    "recall_by_layer": ByLayer("recall"),
    "mass_by_layer": ByLayer("mass"),
    "recall_heat_map": HeatMap(),
    "recall_by_budget": ByBudget("recall"),
    "mass_by_budget": ByBudget("mass"),
    "recall_by_bytes": ByCost("bytes_read"),
    "recall_by_multiply_adds": ByCost("multiply_adds"),
    "recall_by_distance": ByDistance(),
    "entropy_by_layer": EntropyByLayer(),
    "recall_by_entropy": ByEntropy(),
}
