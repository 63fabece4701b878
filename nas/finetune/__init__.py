"""Fine-tuning of a found network from its inherited weights.

Importing this package imports nothing else: its names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.extras import lazy_names

if TYPE_CHECKING:
    from nas.finetune.command import finetune
    from nas.finetune.options import Recipe
    from nas.finetune.run import Finetuned

__all__ = ["Finetuned", "Recipe", "finetune"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "nas.finetune.options": ("Recipe",),
        "nas.finetune.run": ("Finetuned",),
        "nas.finetune.command": ("finetune",),
    },
)
