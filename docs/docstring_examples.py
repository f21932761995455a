"""For the site's API page: the `Example:` of a docstring is set as code."""

import re

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)Example:\n((?:\1 +.*\n?|\n)+)", re.MULTILINE)


def as_code(match: re.Match[str]) -> str:
    """The section with its lines inside a fence."""
    margin, lines = match[1], match[2].rstrip("\n")
    inner = margin + 4 * " "
    language = "pycon" if lines.lstrip().startswith(">>>") else "python"
    return f"{margin}Example:\n{inner}```{language}\n{lines}\n{inner}```\n"


class ExamplesAsCode(Extension):
    """Changes each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(as_code, obj.docstring.value)
