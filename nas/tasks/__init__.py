"""Tasks: what a network is trained for, and everything that follows from it.

The head of a network names its task (`HeadSpec.task`). Trainings, evaluations and searches ask the
task for its loss, its metric and the words for them. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import plugins
from nas.plugins import Registry
from nas.tasks.base import Difference, Figure, Task

if TYPE_CHECKING:
    from nas.blocks import HeadSpec

TASKS: Registry[Task] = Registry(
    plugins.TASKS,
    {
        "classification": "nas.tasks.classify:CLASSIFICATION",
        "segmentation": "nas.tasks.segment:SEGMENTATION",
    },
    kind="nas.tasks.base:Task",
)
"""The tasks by the name that a head gives them; other packages add theirs as `nas.tasks`."""


def task_of(head: HeadSpec) -> Task:
    """Return the task of a head."""
    return TASKS[head.task]


def metric_words(metric: str) -> str:
    """Return a metric as people write it, such as top-1, by its key in files."""
    named = (task.metric_words for task in TASKS.values() if task.metric == metric)
    return next(named, metric)


__all__ = ["TASKS", "Difference", "Figure", "Task", "metric_words", "task_of"]
