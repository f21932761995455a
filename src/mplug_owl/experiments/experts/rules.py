"""A planner that is a program: the question's words decide which kinds of experts are asked, one after another.

It plans for all three policies, in the form that each allows. What it wants beyond captions is decided by three lists of words.
"""

import re

from mplug_owl.experiments.experts.expert import PARTS
from mplug_owl.experiments.experts.inquiry import Inquiry, Request

# What asks for reading. Jokes, posters, tables and plans are mostly words.
READING = re.compile(
    r"\b(text|read|reads|reading|written|write|writes|words?|letters?|numbers?|says?|spell|sign|title|label|logo|brand|poster|"
    r"movie|meme|joke|funny|table|chart|flowchart|diagram|website|question|amount|cost|costs|price|total|salary|earning|"
    r"dimensions?|step|recipe|ingredients|advertisement|begin|comes first|add|sum|plus)\b",
    re.IGNORECASE,
)
# What asks for things, how many there are and where.
THINGS = re.compile(
    r"\b(how many|count|where|place|position|left|right|top|bottom|middle|centre|center|next to|above|below|spatial|is there|"
    r"are there|do you see|missing|without|colou?rs?|shapes?|sizes?|things?|objects?|large|small|list|corners?|wearing|holding|"
    r"bigger|more|fewer)\b",
    re.IGNORECASE,
)
# What asks for the kind of the whole.
KINDS = re.compile(
    r"\b(what kind|which kind|what type|what is this|what is in|breed|species|animals?|plant|style|painting|artist|city|"
    r"product|character|describe|unusual|common|who)\b",
    re.IGNORECASE,
)


def wanted(inquiry: Inquiry) -> list[str]:
    """The kinds of experts that the question needs and there are: a caption always, and whoever there is where nobody fits."""
    question = inquiry.question
    needs = {
        "caption": True,
        "detect": THINGS.search(question),
        "read": READING.search(question),
        "tag": KINDS.search(question),
    }
    kinds = [kind for kind, needed in needs.items() if needed and inquiry.of_kind(kind)]
    return kinds or [kind for kind in needs if inquiry.of_kind(kind)][:1]


def named_part(inquiry: Inquiry) -> str:
    """The part of the picture that the question is about, as Zoom takes it; empty where it names none."""
    question = re.sub("center", "centre", inquiry.question, flags=re.IGNORECASE)
    return " ".join(part for part in PARTS if re.search(rf"\b{part}\b", question, re.IGNORECASE))


def chain(inquiry: Inquiry) -> Request | None:
    """Visual ChatGPT's next tool, one at a time, seeing what the last one found.

    Where reading found nothing and the question names a part of the picture, that part is enlarged and read: only then, because
    letters may become too large to be found.
    """
    found = {(inquiry.experts[request.expert].kind, request.picture): words for request, words in inquiry.found.items()}
    part, zooms = named_part(inquiry), inquiry.of_kind("zoom")
    for given in inquiry.given:
        for kind in wanted(inquiry):
            if (kind, given) not in found:
                return Request(inquiry.of_kind(kind)[0].name, given)
            if kind == "read" and not found[kind, given] and part and zooms:
                if ("zoom", given) not in found:
                    return Request(zooms[0].name, given, part)
                enlarged = f"{given}-{part.replace(' ', '-')}"
                if enlarged in inquiry.pictures and (kind, enlarged) not in found:
                    return Request(inquiry.of_kind(kind)[0].name, enlarged)
    return None


def actions(inquiry: Inquiry) -> list[Request]:
    """MM-REACT's next actions: all that the question needs at once, and then, where all of it found nothing, the rest."""
    kinds = wanted(inquiry)
    if inquiry.found and any(words.strip() for words in inquiry.found.values()):
        return []
    rest = [kind for kind in ("caption", "detect", "read", "tag") if kind not in kinds and inquiry.of_kind(kind)]
    chosen = rest if inquiry.found else kinds
    requests = [Request(inquiry.of_kind(kind)[0].name, picture) for picture in inquiry.given for kind in chosen]
    return [request for request in requests if request not in inquiry.found]
