"""Experts that read: RapidOCR, whose models come with its package, and our owls, which read the drawn world."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from mplug_owl.chat import ChatModel
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.experiments.experts.expert import SHORT, Finding
from mplug_owl.scenes.things import ROWS

# RapidOCR's own limit below which it takes a line for no text.
SURE = 0.5


@dataclass(frozen=True)
class RapidReader:
    """RapidOCR as an expert: PaddleOCR's models of text detection and recognition, run by onnxruntime.

    Lines come in its reading order. What it is less sure of than `sure` is left out.

    Args:
        name: What a planner calls it.
        sure: From 0 to 1.

    Raises:
        UserError: The package is not installed.
    """

    name: str = "read"
    kind: str = "read"
    words: str = "reads the text in the picture"
    sure: float = SURE
    engine: Any = field(default=None, compare=False)

    def look(self, picture: Image.Image, request: str) -> Finding:
        """The lines of text."""
        engine = self.engine if self.engine is not None else self._opened
        levels = np.asarray(picture.convert("RGB"))[:, :, ::-1]  # it takes OpenCV's order of colours
        found, _ = engine(np.ascontiguousarray(levels))
        lines = [text.strip() for _, text, score in found or [] if float(score) >= self.sure and text.strip()]
        return Finding("\n".join(lines))

    @cached_property
    def _opened(self) -> Any:
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ImportError as error:
            raise UserError(f"RapidOCR is missing ({error}); install it with: pip install 'mplug-owl[experts]'") from error
        return RapidOCR()


@dataclass(frozen=True)
class SceneReader:
    """An owl of the drawn world as the expert that reads: it is asked row by row what is written there.

    Args:
        model: The owl, after stage 2.
        name: What a planner calls it.
    """

    model: ChatModel
    name: str = "read"
    kind: str = "read"
    words: str = "reads the words and numbers in the picture"

    def look(self, picture: Image.Image, request: str) -> Finding:
        """What is written, with its row: `APPLE at the top`."""
        shown = Picture(picture)
        asked = [Conversation((), name=self.name).said("user", shown, f"What is written {row}?") for row in ROWS]
        answers = self.model.answers(asked, SHORT)
        rows = zip(answers, ROWS, strict=True)
        written = [(answer, row) for answer, row in rows if answer.strip(" .").lower() not in ("", "nothing")]
        return Finding(", ".join(f"{answer} {row}" for answer, row in written))
