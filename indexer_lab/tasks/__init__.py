"""Retrieval tasks planted in real text, generated from a seed: nothing is downloaded.

>>> from indexer_lab.tasks import prompts
>>> for sample in prompts("multi_key", tokenizer, length=2048, count=8, seed=0):
...     sample.text, sample.answer, sample.needles
"""

from indexer_lab.tasks.episode import Needle, Sample, matches
from indexer_lab.tasks.prompts import prompts
from indexer_lab.tasks.source_text import texts
from indexer_lab.tasks.table import TASKS, Task

__all__ = ["TASKS", "Needle", "Sample", "Task", "matches", "prompts", "texts"]
