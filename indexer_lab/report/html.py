"""A document as one HTML file that asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from indexer_lab.report.document import Document

SCRIPT, STYLE = "report.js", "report.css"


def html(report: Document) -> str:
    """The page. Everything that comes from a run is escaped; the page's own script and style stand
    inline, and its policy lets no other script run and nothing be fetched."""
    environment = Environment(
        loader=PackageLoader("indexer_lab.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = tight
    script, style = _asset(SCRIPT), _asset(STYLE)
    page = environment.get_template("report.html.jinja")
    return page.render(
        report=report,
        script=Markup(script),  # our own
        style=Markup(style),
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def tight(text: str) -> str:
    """The text with its per-cent signs kept on the line of their numbers."""
    return text.replace(" %", "\u00a0%")


def _asset(name: str) -> str:
    return files("indexer_lab.report").joinpath("page", name).read_text(encoding="utf-8")
