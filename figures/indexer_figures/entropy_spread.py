"""How attention entropy is distributed, layer by layer, in prefill, decode and on few keys."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.outcome import DENSE, label, need, one_budget
from indexer_figures.page import NARROW, WIDE, Entry, blank, finish, grid
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import PALETTE, Look
from indexer_figures.ticks import layer_axis
from indexer_figures.words import span

QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}
KINDS = ("prefill, all keys", "decode, all keys", "decode, selected keys")
_LOOKS = dict(zip(KINDS, zip(PALETTE, ("o", "s", "^"), strict=False), strict=True))


@dataclass(frozen=True)
class EntropySpread:
    """p10, p25, median, p75 and p90 of entropy in each layer: dense prefill, dense decode, and the
    keys that one selector picks in decode."""

    title: str = "Attention entropy in prefill and decode"
    question: str = "How spread out is attention, and how spread out over the selected keys?"
    columns: tuple[str, ...] = (
        "sample", "task", "mode", "selector", "budget", "phase", "layer", "entropy",
        "selected_entropy",
    )  # fmt: skip
    shape: str = "Thick p25–p75 and thin p10–p90 bars with medians, layer on the x axis, nats on y"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each layer and kind; `selector` is the one whose keys are the selected."""
        need(scores, self.columns)
        dense = scores[scores["selector"] == DENSE]
        if dense.empty:
            raise FigureError("there are no entropy rows of the dense model: run quality again")
        chosen = self._chosen(scores, choice)
        steps = dense[dense["phase"] == "decode"]
        steps = steps[steps["mode"] == steps["mode"].min()]  # one run of several alike
        parts = {
            KINDS[0]: dense[dense["phase"] == "prefill"].assign(value=lambda t: t["entropy"]),
            KINDS[1]: steps.assign(value=lambda t: t["entropy"]),
            KINDS[2]: chosen.assign(value=lambda t: t["selected_entropy"]),
        }
        rows = pd.concat([part.assign(kind=kind) for kind, part in parts.items()])
        rows = rows[rows["value"].notna()].sort_values("value")
        groups = rows.groupby(["kind", "layer"])["value"]
        table = pd.DataFrame({name: groups.quantile(q) for name, q in QUANTILES.items()})
        table["rows"] = groups.count()
        table["samples"] = rows.groupby(["kind", "layer"])["sample"].nunique()
        table = table.reset_index()
        named = chosen if len(chosen) else dense
        table["selector"] = named["selector"].iloc[0]
        table["budget"] = named["budget"].iloc[0]
        return label(table, dense if steps.empty else steps)

    def _chosen(self, scores: pd.DataFrame, choice: Choice) -> pd.DataFrame:
        """Decode rows of one selector at one budget: the chosen, else the first that is listed."""
        steps = scores[(scores["selector"] != DENSE) & (scores["phase"] == "decode")]
        if steps.empty:
            return steps
        steps = one_budget(steps, choice)
        names = sorted(map(str, steps["selector"].unique()))
        wanted = choice.selectors or (("exact",) if "exact" in names else (names[0],))
        if wanted[0] not in names:
            raise FigureError(f"selector {wanted[0]!r} was not run (there: {', '.join(names)})")
        own = steps[steps["selector"] == wanted[0]]
        return own[own["mode"] == own["mode"].min()]

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`; entropy has its own colours, so looks change nothing."""
        layers = sorted(table["layer"].unique())
        width = NARROW if len(layers) <= 12 else WIDE
        figure, axes = blank(width, 2.3)
        ax = axes[0, 0]
        steps = [b - a for a, b in itertools.pairwise(layers)]
        gap = 0.22 * min(steps, default=1)
        for number, kind in enumerate(KINDS):
            own, (colour, marker) = table[table["kind"] == kind], _LOOKS[kind]
            at = own["layer"] + (number - 1) * gap
            ax.vlines(at, own["p10"], own["p90"], color=colour, linewidth=0.8, zorder=2)
            ax.vlines(at, own["p25"], own["p75"], color=colour, linewidth=2.6, zorder=2, alpha=0.6)
            ax.plot(at, own["median"], linestyle="none", color=colour, marker=marker, zorder=3,
                    markersize=3.6 if len(layers) <= 30 else 2.4, label=kind,
                    markeredgecolor="white", markeredgewidth=0.4)  # fmt: skip
        layer_axis(ax, layers, width - 0.75)
        low, high = ax.get_xlim()
        ax.set_xlim(low - gap, high + gap)
        ax.set_ylim(bottom=-0.03 * table["p90"].max() - 0.02)
        grid(ax, "y")
        ax.set_xlabel("layer")
        ax.set_ylabel("entropy of attention (nats)")
        rows = table["rows"]
        notes = [
            "Median, p25–p75 (thick) and p10–p90 (thin) over samples, heads and queries; "
            f"{span(rows.min(), rows.max())} query rows per mark."
        ]
        first = table.iloc[0]
        keys = f" · selected by {first['selector']}, budget {first['budget']}"
        keys = keys if first["selector"] != DENSE else ""
        subtitle = f"dense model, mode {first['mode']} · {first['task']}{keys}"
        shown = [kind for kind in KINDS if kind in set(table["kind"])]
        return finish(figure, self.title, subtitle, [_entry(kind) for kind in shown], notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The widest layer's median of each kind."""
        parts = []
        for kind in KINDS:
            own = table[table["kind"] == kind]
            if len(own):
                row = own.loc[own["median"].idxmax()]
                parts.append(f"{kind}: at most {row['median']:.2f} nats (layer {row['layer']})")
        return "Median entropy over " + "; ".join(parts) + "."


def _entry(kind: str) -> Entry:
    colour, marker = _LOOKS[kind]
    return Line2D([], [], color=colour, marker=marker, linestyle="none"), kind
