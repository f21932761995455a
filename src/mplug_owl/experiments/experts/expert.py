"""What an expert is: it is shown one picture and says in words what it found there."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from mplug_owl.chat import ChatModel, Decoding
from mplug_owl.conversation import Conversation, Picture

# A caption or a line of text; an expert that talks on is cut off.
SHORT = Decoding(max_new_tokens=96)


@dataclass(frozen=True)
class Finding:
    """What an expert found.

    Args:
        words: In words; empty where there is nothing of its kind.
        parts: Pictures that it cut out, each with a name that says what it is. Other experts may look at them.
    """

    words: str
    parts: tuple[tuple[str, Image.Image], ...] = ()


class Expert(Protocol):
    """Plug in any object that has these."""

    @property
    def name(self) -> str:
        """What a planner calls it: one word."""

    @property
    def kind(self) -> str:
        """What it is for: caption, read, tag, detect or zoom. Several experts may have one kind."""

    @property
    def words(self) -> str:
        """What it does, in a sentence for a planner."""

    def look(self, picture: Image.Image, request: str) -> Finding:
        """What it finds in a picture. `request` are a planner's words to it, which many experts need not."""


@dataclass(frozen=True)
class Asked:
    """Any ChatModel that sees as an expert: it is shown the picture and asked the same each time.

    Args:
        model: Our owl after stage 1, a captioner of transformers, a server's model.
        question: What it is asked; empty shows it the picture alone, to which an owl after stage 1 says a caption.
        name: What a planner calls it.
        kind: caption or read.
        words: What it does.
        system: The system sentence above it, None for none, as stage 1 has it.
        nothing: Answers that mean that nothing is there.
    """

    model: ChatModel
    question: str = ""
    name: str = "caption"
    kind: str = "caption"
    words: str = "describes the picture in a sentence"
    system: str | None = None
    nothing: tuple[str, ...] = ("nothing",)

    def look(self, picture: Image.Image, request: str) -> Finding:
        """Its answer."""
        talk = Conversation((), self.system, name=self.name)
        talk = talk.said("user", Picture(picture), *([self.question] if self.question else []))
        (answer,) = self.model.answers([talk], SHORT)
        return Finding("" if answer.strip(" .").lower() in ("", *self.nothing) else answer)


# The parts of a picture by the words that people use, as shares of width and height: left, top, right, bottom.
PARTS = {
    "top": (0.0, 0.0, 1.0, 1 / 3),
    "bottom": (0.0, 2 / 3, 1.0, 1.0),
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "middle": (0.0, 1 / 3, 1.0, 2 / 3),
    "centre": (0.25, 0.25, 0.75, 0.75),
}
# A part is enlarged until its longer side has so many pixels: experts were trained on larger pictures than a ninth.
ZOOMED = 640


@dataclass(frozen=True)
class Zoom:
    """Cuts out a part of the picture and enlarges it, so that the next expert in a chain looks at it alone."""

    name: str = "zoom"
    kind: str = "zoom"
    words: str = f"cuts out and enlarges a part of the picture: {', '.join(PARTS)}, or two words such as top left"

    def look(self, picture: Image.Image, request: str) -> Finding:
        """The part that the request names; nothing where it names none."""
        named = [part for part in PARTS if part in request.lower().replace("center", "centre").split()]
        if not named:
            return Finding("")
        left = max(PARTS[part][0] for part in named)
        top = max(PARTS[part][1] for part in named)
        right = min(PARTS[part][2] for part in named)
        bottom = min(PARTS[part][3] for part in named)
        if right <= left or bottom <= top:  # top bottom
            return Finding("")
        width, height = picture.size
        box = (round(left * width), round(top * height), max(1, round(right * width)), max(1, round(bottom * height)))
        part = picture.crop(box)
        if (scale := ZOOMED / max(part.size)) > 1:
            size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
            part = part.resize(size, Image.Resampling.BICUBIC)
        name = "-".join(named)
        return Finding(f"the {' '.join(named)} of the picture, enlarged", ((name, part),))
