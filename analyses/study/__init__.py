"""What the scripts of the study share: settings, verdicts, figures and tables of the gallery.

A script says what it claims and how large it is, and has one function from settings to an answer:

    SCRIPT = Script("topk_decoding", "Exact top-k decoding is …", "needle-dense", SMALL, FULL)

    def study(asked: Asked) -> Answer:
        ...
        return Answer(Verdict(finding, sentence, numbers), tables, figures)

    if __name__ == "__main__":
        run(SCRIPT, study, __doc__)
"""

from study.arguments import Asked, Script, Size
from study.claim import Finding, Number, Verdict, all_of, at_least, at_most
from study.gallery import draw, draw_table
from study.running import Answer, run, say

__all__ = [
    "Answer",
    "Asked",
    "Finding",
    "Number",
    "Script",
    "Size",
    "Verdict",
    "all_of",
    "at_least",
    "at_most",
    "draw",
    "draw_table",
    "run",
    "say",
]
