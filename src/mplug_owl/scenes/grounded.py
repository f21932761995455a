"""Open answers about the drawn world: which things an answer names, and whether they are in the scene.

What is named is a colour and a shape together (`a small red circle`), a shape alone or a colour alone. Sizes, places and what
is written are not looked at. An answer is grounded where it names something and all that it names is there.
"""

import re
from dataclasses import dataclass

from mplug_owl.scenes.things import COLOURS, SHAPES, SIZES, plural
from mplug_owl.scenes.world import Scene

_SHAPE_OF = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
_COLOUR = "|".join(COLOURS)
_SHAPE = "|".join(sorted(_SHAPE_OF, key=len, reverse=True))
_SIZE = "|".join(SIZES)
# A colour before its shape, a size or a hyphen between them at most; else either of them alone.
_NAMED = re.compile(
    rf"\b(?:(?P<colour>{_COLOUR})(?:[\s-]+(?:{_SIZE}))?[\s-]+(?P<shape>{_SHAPE})|(?P<only>{_COLOUR}|{_SHAPE}))\b", re.I
)


@dataclass(frozen=True)
class Named:
    """One thing that an answer names: a colour, a shape, or both."""

    colour: str | None
    shape: str | None

    def is_in(self, shown: Scene) -> bool:
        """Whether the scene has a thing of this colour and shape."""
        return any(self.colour in (None, thing.colour) and self.shape in (None, thing.shape) for thing in shown.things)


def named(answer: str) -> list[Named]:
    """What an answer names, in its order."""
    found = []
    for match in _NAMED.finditer(answer.lower()):
        colour, shape, only = match["colour"], match["shape"], match["only"]
        if only is None:
            found.append(Named(colour, _SHAPE_OF[shape]))
        elif only in COLOURS:
            found.append(Named(only, None))
        else:
            found.append(Named(None, _SHAPE_OF[only]))
    return found


def is_grounded(answer: str, shown: Scene) -> bool:
    """Whether an answer names something, and nothing that is not in the scene."""
    things = named(answer)
    return bool(things) and all(thing.is_in(shown) for thing in things)
