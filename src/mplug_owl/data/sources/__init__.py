"""Sources: data comes in through one door, `read("FORMAT:PATH")`, and comes out as conversations, one by one."""

from mplug_owl.data.sources.checks import check, picture_size
from mplug_owl.data.sources.registry import FORMATS, read
from mplug_owl.data.sources.source import Source

__all__ = ["FORMATS", "Source", "check", "picture_size", "read"]
