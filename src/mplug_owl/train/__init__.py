"""Training: who learns what, from which data, for how long; and a run that can be stopped and resumed.

The room can be called, so that `from mplug_owl import train` gives what people expect: `train(recipe, "runs/mine")` is
`mplug_owl.train.run.train`.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mplug_owl.train.exam import Exam
    from mplug_owl.train.recipe import Recipe
    from mplug_owl.train.reporter import Reporter


class _Train(ModuleType):
    """A module that trains when it is called."""

    def __call__(
        self,
        recipe: "Recipe",
        out: Path | str,
        *,
        resume: bool = False,
        reporter: "Reporter | None" = None,
        exam: "Exam | None" = None,
    ) -> Path:
        """As `mplug_owl.train.run.train`."""
        from mplug_owl.train.run import train

        return train(recipe, out, resume=resume, reporter=reporter, exam=exam)


sys.modules[__name__].__class__ = _Train
