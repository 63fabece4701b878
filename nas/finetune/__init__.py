"""Fine-tuning a found network from its inherited weights."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from nas.finetune.recipe import Recipe
from nas.finetune.run import Finetuned, finetune


class _CallableModule(ModuleType):
    """Lets `nas.finetune` be both: the function of the public API, and this package, which importing anything in it
    binds to that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Finetuned:
        return finetune(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

__all__ = ["Finetuned", "Recipe", "finetune"]
