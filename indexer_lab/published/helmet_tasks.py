"""HELMET's tasks as published: which file, which words, how many tokens, which score.

Everything here is the benchmark's protocol, from https://github.com/princeton-nlp/HELMET (MIT):
files, lengths and tokens from configs/recall*.yaml, rag*.yaml and ruler*.yaml at commit 0e8a761;
the words of the prompts from data.py at fdd6333; the metric of each task from
scripts/collect_results.py at 1cbf487. RULER's words are NVIDIA's (Apache-2.0), json_kv's those of
nelson-liu/lost-in-the-middle (MIT). A run whose words differ would be no run of HELMET.
"""

from __future__ import annotations

from dataclasses import dataclass

from indexer_lab.errors import InputError, unknown_name

LENGTHS = (8192, 16384, 32768, 65536, 131072)
_PAIRS = dict(zip(LENGTHS, (105, 220, 440, 900, 1800), strict=True))  # key-value pairs
_DOCUMENTS = dict(zip(LENGTHS, (50, 105, 220, 440, 1000), strict=True))


@dataclass(frozen=True)
class HelmetTask:
    """kind: `ruler`, `json_kv` or `kilt`, the fields that its rows have.

    file:   below the data folder, {length}, {pairs} or {documents} in it; demos: likewise or "".
    user:   the prompt; answer: what the model's answer goes on from, without a chat template.
    tokens: most to generate; line: whether an answer ends with its line.
    score:  `recall`: share of the answers in the output; `found`: whether any is, normalised.
    popularity: below which log10 of a subject's page views it counts; None for all.
    """

    kind: str
    file: str
    user: str
    answer: str
    tokens: int
    score: str
    line: bool = False
    demos: str = ""
    popularity: float | None = None

    def path(self, length: int) -> str:
        return self.file.format(length=length, pairs=_PAIRS[length], documents=_DOCUMENTS[length])


_NEEDLE = (
    "A special magic {type_needle_v} is hidden within the following text. Make sure to memorize it."
    " I will quiz you about the {type_needle_v} afterwards.\n{context}\nWhat is the special magic "
    "{type_needle_v} for {query} mentioned in the provided text?",
    "The special magic {type_needle_v} for {query} mentioned in the provided text is",
)
_NEEDLES = (
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to "
    "memorize it. I will quiz you about the {type_needle_v} afterwards.\n{context}\nWhat are all "
    "the special magic {type_needle_v} for {query} mentioned in the provided text?",
    "The special magic {type_needle_v} for {query} mentioned in the provided text are",
)
_TRACKING = (
    "{example}Memorize and track the chain(s) of variable assignment hidden in the following text."
    "\n\n{context}\nQuestion: Find all variables that are assigned the value {query} in the text "
    "above.",
    "Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables "
    "are assigned the value {query}, they are:",
)
_COMMON = (
    "{example}Below is a numbered list of words. In these words, some appear more often than "
    "others. Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most "
    "common words in the above list?",
    "Answer: The top 10 words that appear most often in the list are:",
)
_FREQUENT = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words.\n{context}\nQuestion: Do not provide any explanation. Please "
    "ignore the dots '....'. What are the three most frequently appeared words in the above coded "
    "text?",
    "Answer: According to the coded text above, the three most frequently appeared words are:",
)
_READING = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\nThe following are given documents.\n\n{context}\n\nAnswer the question "
    "based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "Question: {question}",
    "Answer:",
)
_LOOKUP = (
    "{context}\n\nExtract the value corresponding to the specified key in the JSON object below."
    "\n\n{demos}Key: {question}",
    "Corresponding value:",
)
_DOCUMENT_QA = (
    "Use the given documents to write a concise and short answer to the question. Write your "
    "answer in the following format:\nAnswer: [answer]\n\n{demos}{context}\n\nQuestion: {question}",
    "Answer:",
)


def _ruler(folder: str, words: tuple[str, str], tokens: int, score: str = "recall") -> HelmetTask:
    return HelmetTask("ruler", f"ruler/{folder}/validation_{{length}}.jsonl", *words, tokens, score)


def _kilt(test: str, demos: str, popularity: float | None = None) -> HelmetTask:
    return HelmetTask(
        "kilt", f"kilt/{test}.jsonl", *_DOCUMENT_QA, 20, "found", True, f"kilt/{demos}.jsonl",
        popularity,
    )  # fmt: skip


def _wikipedia(name: str, depths: int) -> HelmetTask:
    return _kilt(
        f"{name}-dev-multikilt_1000_k{{documents}}_dep{depths}",
        f"{name}-train-multikilt_1000_k3_dep{depths}",
    )


TASKS = {
    "json_kv": HelmetTask("json_kv", "json_kv/test_k{pairs}_dep6.jsonl", *_LOOKUP, 100, "found"),
    "ruler_niah_s_1": _ruler("niah_single_1", _NEEDLE, 50),
    "ruler_niah_s_2": _ruler("niah_single_2", _NEEDLE, 50),
    "ruler_niah_s_3": _ruler("niah_single_3", _NEEDLE, 50),
    "ruler_niah_mk_1": _ruler("niah_multikey_1", _NEEDLE, 50),
    "ruler_niah_mk_2": _ruler("niah_multikey_2", _NEEDLE, 50),
    "ruler_niah_mk_3": _ruler("niah_multikey_3", _NEEDLE, 100),
    "ruler_niah_mq": _ruler("niah_multiquery", _NEEDLES, 100),
    "ruler_niah_mv": _ruler("niah_multivalue", _NEEDLES, 50),
    "ruler_cwe": _ruler("cwe", _COMMON, 100),
    "ruler_fwe": _ruler("fwe", _FREQUENT, 50),
    "ruler_vt": _ruler("vt", _TRACKING, 50),
    "ruler_qa_1": _ruler("qa_1", _READING, 50, "found"),
    "ruler_qa_2": _ruler("qa_2", _READING, 50, "found"),
    "kilt_nq": _wikipedia("nq", 6),
    "kilt_triviaqa": _wikipedia("triviaqa", 6),
    "kilt_hotpotqa": _wikipedia("hotpotqa", 3),
    "kilt_popqa_3": _kilt(
        "popqa_test_1000_k{documents}_dep6", "popqa_test_1000_k3_dep6", popularity=3
    ),
}

GROUPS = {
    "recall": ("ruler_niah_mk_2", "ruler_niah_mk_3", "ruler_niah_mv", "json_kv"),
    "rag": ("kilt_nq", "kilt_triviaqa", "kilt_hotpotqa", "kilt_popqa_3"),
    "ruler": tuple(name for name in TASKS if name.startswith("ruler_")),
}

_NOT_IN_FOLDER = "HELMET's data folder does not hold it, its code fetches it from the hub"
_JUDGED = "a model judges its answers"
UNSUPPORTED = {
    "icl": _NOT_IN_FOLDER,
    "rerank": "its NDCG is not computed here",
    "msmarco_rerank_psg": "its NDCG is not computed here",
    "cite": _JUDGED,
    "alce_asqa": _JUDGED,
    "alce_qampari": _JUDGED,
    "longqa": f"{_NOT_IN_FOLDER}, and {_JUDGED}",
    "narrativeqa": f"{_NOT_IN_FOLDER}, and {_JUDGED}",
    "infbench_qa": f"{_NOT_IN_FOLDER}; lm-eval has it: --task lm-eval:infinitebench",
    "infbench_choice": f"{_NOT_IN_FOLDER}; lm-eval has it: --task lm-eval:infinitebench",
    "infbench_sum": f"{_NOT_IN_FOLDER}, and {_JUDGED}",
    "summ": f"{_NOT_IN_FOLDER}, and {_JUDGED}",
    "multi_lexsum": f"{_NOT_IN_FOLDER}, and {_JUDGED}",
}
"""Parts of HELMET that are not read, and why."""


def tasks_of(names: tuple[str, ...]) -> dict[str, HelmetTask]:
    """The tasks that names of tasks and groups stand for. Raises InputError."""
    found: dict[str, HelmetTask] = {}
    for name in names:
        part = "icl" if name.startswith("icl_") else name
        if part in UNSUPPORTED:
            raise InputError(
                f"HELMET's {name!r} is not supported: {UNSUPPORTED[part]}; supported are "
                f"{', '.join((*GROUPS, *TASKS))}"
            )
        if name not in TASKS and name not in GROUPS:
            raise unknown_name("HELMET task", name, (*TASKS, *GROUPS))
        found |= {task: TASKS[task] for task in GROUPS.get(name, (name,))}
    return found
