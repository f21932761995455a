"""Sources: data comes in through one door, `read("FORMAT:PATH")`, and comes out as conversations, one by one."""

from mplug_owl.data.sources.source import FORMATS, Source, check, picture_size, read

__all__ = ["FORMATS", "Source", "check", "picture_size", "read"]
