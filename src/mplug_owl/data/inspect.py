"""Inspecting: what the model will see of a source, before anybody pays for training on it."""

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mplug_owl.conversation import Conversation, ImageSource
from mplug_owl.data.encode import Encoding, encode
from mplug_owl.data.sources import Source, check, picture_size
from mplug_owl.data.sources.source import in_turn
from mplug_owl.errors import BadSample
from mplug_owl.model.processor import MplugOwlProcessor

# Lengths are counted on this many conversations, spread evenly over the source.
SURVEYED = 1_000
# Conversations looked at for problems; a million of them would take hours.
CHECKED = 20_000
# Problems printed before the rest is only counted.
LISTED = 20
BARS = 8
# A longer stretch of words is shown by its first and last ones.
WHOLE = 240
SUPERVISED, PROMPT, QUIET, PICTURE, WRONG = "bold green", "", "dim", "cyan", "red"


@dataclass(frozen=True)
class Stretch:
    """Neighbouring positions of one kind: a picture's, or words, supervised or not. `cuts` are the tokens of the words."""

    count: int
    cuts: tuple[str, ...] = ()
    supervised: bool = False
    picture: ImageSource | None = None


@dataclass(frozen=True)
class Sample:
    """One conversation as the model gets it, in stretches; `cut` positions of it did not fit."""

    name: str
    stretches: tuple[Stretch, ...]
    cut: int

    @property
    def length(self) -> int:
        """Positions in all."""
        return sum(stretch.count for stretch in self.stretches)

    @property
    def supervised(self) -> int:
        """Positions that carry a loss."""
        return sum(stretch.count for stretch in self.stretches if stretch.supervised)


def show(
    source: Source,
    processor: MplugOwlProcessor | None,
    console: Console,
    count: int = 3,
    max_tokens: int = 1024,
) -> None:
    """Print a source's counts, `count` of its conversations as the model gets them, its lengths and its problems.

    Without a processor words are counted instead of tokens, and a picture as one.
    """
    with console.status(f"reading {min(len(source), CHECKED):,} conversations"):
        checked = _spread(len(source), CHECKED)
        problems = check(source, indices=checked)
        surveyed = _spread(len(source), SURVEYED)
        conversations, samples = dict[int, Conversation](), dict[int, Sample]()
        for index in in_turn(source, surveyed):
            if (talk := _readable(source, index)) is None:
                continue
            try:
                samples[index] = as_sample(talk, processor, max_tokens)
                conversations[index] = talk
            except BadSample as error:  # the model's chat format refuses it
                problems.append(str(error))
    chosen = [list(samples.values())[index] for index in _spread(len(samples), count)]
    unit = "tokens" if processor else "words"
    parts: list[RenderableType] = [_heading(source, list(conversations.values()))]
    parts += [part for sample in chosen for part in ("", _sample(sample, unit, max_tokens))]
    if chosen:
        parts += ["", _legend(processor)]
    if samples:
        parts += ["", _lengths(list(samples.values()), len(source), unit, max_tokens)]
    parts += ["", _problems(problems, len(checked), len(source))]
    console.print(Group(*parts))


def as_sample(conversation: Conversation, processor: MplugOwlProcessor | None, max_tokens: int) -> Sample:
    """A conversation as the model gets it."""
    if processor is None:
        return _in_words(conversation, max_tokens)
    example = encode(conversation, processor, Encoding(max_tokens))
    stretches, pictures, first = [], iter(example.pictures), 0
    while first < len(example):
        if example.ids[first] == processor.image_token_id:
            last = first + processor.num_image_tokens
            stretches.append(Stretch(last - first, picture=next(pictures)))
        else:
            last = first + 1
            while last < len(example) and _alike(example.ids, example.loss_mask, first, last, processor.image_token_id):
                last += 1
            words = _as_cuts(example.ids[first:last], processor)
            stretches.append(Stretch(last - first, tuple(words), example.loss_mask[first]))
        first = last
    return Sample(example.name, tuple(stretches), example.cut)


def _alike(ids: Sequence[int], supervised: Sequence[bool], first: int, last: int, picture: int) -> bool:
    return supervised[last] == supervised[first] and ids[last] != picture


def _as_cuts(ids: Sequence[int], processor: MplugOwlProcessor) -> Iterator[str]:
    """The text of each token. A character of several tokens stands at its last one, the others are empty."""
    tokenizer, before, done = processor.tokenizer, 0, 0
    special = set(tokenizer.all_special_ids)
    for end in range(1, len(ids) + 1):
        if ids[end - 1] in special:  # decoded on its own: beside words it moves their spaces
            yield tokenizer.convert_ids_to_tokens(ids[end - 1])
            before = done = end
            continue
        known = tokenizer.decode(ids[before:done], skip_special_tokens=False)
        text = tokenizer.decode(ids[before:end], skip_special_tokens=False)
        if text.endswith("\ufffd") and end < len(ids):
            yield ""
        else:
            yield text[len(known) :]
            before, done = done, end


def _in_words(conversation: Conversation, max_tokens: int) -> Sample:
    stretches, pictures, room, cut = list[Stretch](), iter(conversation.pictures), max_tokens, 0
    for piece in conversation.pieces():
        words = tuple(re.findall(r"\s*\S+\s*$|\s*\S+|\s+", piece.text)) if piece.text is not None else ()
        count = len(words) if piece.text is not None else 1
        kept = min(count, room)
        cut, room = cut + count - kept, room - kept
        picture = next(pictures).source if piece.text is None else None
        if kept:
            stretches.append(Stretch(kept, words[:kept], piece.supervised, picture))
    return Sample(conversation.name, tuple(stretches), cut)


# What is printed


def _heading(source: Source, conversations: Sequence[Conversation]) -> RenderableType:
    answers = sum(len(talk.answers) for talk in conversations)
    shown = [picture.source for talk in conversations for picture in talk.pictures]
    # One file counts once; an opened picture can only be kept apart from another object, not from its like.
    pictures = list({id(one) if isinstance(one, Image.Image) else one: one for one in shown}.values())
    surveyed = "" if len(conversations) == len(source) else f", {len(conversations):,} of them read"
    return Group(
        Text(_harmless(source.name), "bold"),
        Text(f"{_many(len(source), 'conversation')}{surveyed}: {_many(answers, 'answer')}, {_pictures(pictures)}"),
    )


def _pictures(pictures: Sequence[ImageSource]) -> str:
    if not pictures:
        return "no pictures"
    sizes = sorted((size for picture in pictures if (size := _size(picture))), key=lambda size: size[0] * size[1])
    if not sizes:
        return _many(len(pictures), "picture")
    small, large = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
    return f"{_many(len(pictures), 'picture')} of {small}" + (f" to {large}" if large != small else "")


def _sample(sample: Sample, unit: str, max_tokens: int) -> RenderableType:
    title = Text.assemble(
        (_harmless(sample.name), "bold"), (f"   {sample.length:,} {unit}, {sample.supervised:,} supervised", QUIET)
    )
    rows = Table.grid(padding=(0, 2))
    rows.add_column(justify="right", style=QUIET, min_width=6, no_wrap=True)
    rows.add_column(overflow="fold")
    for stretch in sample.stretches:
        rows.add_row(f"{stretch.count:,}", _stretch(stretch, unit))
    if sample.cut:
        rows.add_row(f"{sample.cut:,}", Text(f"✂ {unit} that do not fit into {max_tokens:,}", WRONG))
    return Group(title, rows)


def _stretch(stretch: Stretch, unit: str) -> Text:
    if stretch.picture is not None:
        size = _size(stretch.picture)
        shape = f" {size[0]}x{size[1]}" if size else ""
        positions = f" → {stretch.count} positions" if unit == "tokens" else ""
        return Text(f"▣ {_name(stretch.picture)}{shape}{positions}", PICTURE)
    text, style = Text(), SUPERVISED if stretch.supervised else PROMPT
    head, tail = (len(stretch.cuts), 0) if stretch.count <= WHOLE else (WHOLE * 2 // 3, WHOLE // 3)
    for index, cut in enumerate(stretch.cuts):
        if head <= index < len(stretch.cuts) - tail:
            text.append(f" … {len(stretch.cuts) - head - tail:,} more {unit} … " if index == head else "", QUIET)
            continue
        inside_a_word = index and unit == "tokens" and cut[:1].isalnum() and stretch.cuts[index - 1][-1:].isalnum()
        text.append("·" if inside_a_word else "", QUIET)
        text.append(_harmless(cut), style)
    # A stretch begins on a line of its own anyway.
    text = text[1:] if text.plain.startswith("\n") else text
    return Text.assemble(("⟦", SUPERVISED), text, ("⟧", SUPERVISED)) if stretch.supervised else text


def _legend(processor: MplugOwlProcessor | None) -> RenderableType:
    if processor is None:
        return Text.assemble(
            ("⟦supervised⟧", SUPERVISED), ("   ▣ picture   words are counted, since no model was named", QUIET)
        )
    closing = processor.tokenizer.convert_ids_to_tokens(processor.end_token_ids[0])
    end = f" up to the end token {closing}   wo·rd of two tokens   ▣ picture"
    return Text.assemble(("⟦supervised⟧", SUPERVISED), (end, QUIET))


def _lengths(samples: Sequence[Sample], whole: int, unit: str, max_tokens: int) -> RenderableType:
    lengths = [sample.length + sample.cut for sample in samples]
    shares = [sample.supervised / max(sample.length, 1) for sample in samples]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=QUIET)
    table.add_column(f"{unit} a conversation" if len(samples) == whole else f"{unit}, in {len(samples):,} of {whole:,}")
    for name in ("min", "median", "max"):
        table.add_column(name, justify="right")
    table.add_row("length", *(f"{value:,.0f}" for value in (min(lengths), statistics.median(lengths), max(lengths))))
    table.add_row("supervised", *(f"{value:.0%}" for value in (min(shares), statistics.median(shares), max(shares))))
    cut = [sample for sample in samples if sample.cut]
    lost = f", {_many(sum(sample.cut for sample in cut), unit[:-1])} lost" if cut else ""
    empty = sum(sample.supervised == 0 for sample in samples)
    notes = [Text(f"{len(cut):,} longer than {max_tokens:,}{lost}", WRONG if cut else QUIET)]
    if empty:
        notes.append(Text(f"{empty:,} with nothing supervised", WRONG))
    # Three have no shape worth drawing.
    bars: list[RenderableType] = ["", _bars(lengths, unit)] if len(lengths) > 3 else []
    return Group(table, *notes, *bars)


def _bars(lengths: Sequence[int], unit: str) -> Table:
    """How many conversations are how long, in steps of 1, 2 or 5 times a power of ten."""
    steps = (digit * 10**power for power in range(12) for digit in (1, 2, 5))
    step = next(step for step in steps if max(lengths) // step - min(lengths) // step < BARS)
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style=QUIET)
    table.add_column(no_wrap=True)
    counts = [sum(length // step == bar for length in lengths) for bar in range(max(lengths) // step + 1)]
    for bar in range(min(lengths) // step, max(lengths) // step + 1):
        low, width = bar * step, round(40 * counts[bar] / max(counts))
        span = f"{low:,}" if step == 1 else f"{low:,} to {low + step - 1:,}"
        table.add_row(f"{span} {unit}", f"{'█' * (width or bool(counts[bar]))} {counts[bar]:,}".strip())
    return table


def _problems(problems: Sequence[str], checked: int, whole: int) -> RenderableType:
    where = "" if checked == whole else f" in {checked:,} of {_many(whole, 'conversation')}"
    if not problems:
        return Text(f"no problems{where}", "green")
    lines: list[RenderableType] = [Text(f"{_many(len(problems), 'problem')}{where}", f"bold {WRONG}")]
    lines += [Padding(Text(_harmless(problem)), (0, 0, 0, 2)) for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(Padding(Text(f"and {len(problems) - LISTED:,} more", QUIET), (0, 0, 0, 2)))
    return Group(*lines)


def _readable(source: Source, index: int) -> Conversation | None:
    try:
        return source[index]
    except BadSample:  # `check` has said so
        return None


def _spread(whole: int, count: int) -> list[int]:
    """At most `count` numbers below `whole`, evenly apart."""
    return [index * whole // min(whole, count) for index in range(min(whole, count))]


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def _name(picture: ImageSource) -> str:
    return _harmless(Path(picture).name) if isinstance(picture, (str, Path)) else "picture"


def _size(picture: ImageSource) -> tuple[int, int] | None:
    try:
        return picture_size(picture)
    except BadSample:  # `check` has said so
        return None


def _harmless(text: str) -> str:
    """Text without what would steer the terminal, turn the reading direction, or be no character at all."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", text)
