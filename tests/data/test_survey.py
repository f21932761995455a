"""A look at sources: mean lengths to the error that is asked for, and whether there are pictures."""

import io
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from mplug_owl import MplugOwlProcessor
from mplug_owl.conversation import PLAIN, Conversation, Message, caption
from mplug_owl.data import survey
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.mixture import SampleId
from mplug_owl.data.survey import LOOKED_AT, Cut, Survey
from mplug_owl.errors import BadSample

WORDS = ("a", "red", "cat", "near", "the", "house")


@dataclass
class Made:
    """Captions of 9 to 14 words, or documents of words alone; every `broken`th cannot be read."""

    count: int
    captions: bool = True
    broken: int = 0
    name: str = "made"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Conversation:
        if self.broken and index % self.broken == 0:
            raise BadSample(f"record {index} is broken")
        chance = random.Random(index)
        words = " ".join(chance.choice(WORDS) for _ in range(chance.randint(9, 14)))
        return (
            caption(Path("cat.png"), words) if self.captions else Conversation((Message("assistant", (words,)),), None, PLAIN)
        )


@dataclass
class Announced(Made):
    """Made, in a store: it fails where it is asked for what was not announced before."""

    def __post_init__(self) -> None:
        self.coming: set[int] = set()

    def expect(self, indices: Sequence[int], nearby: bool = False) -> None:
        """Remembered until read."""
        self.coming |= set(indices)

    def __getitem__(self, index: int) -> Conversation:
        self.coming.remove(index)
        return super().__getitem__(index)


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


PICTURE = _png()
HOW = Encoding(max_tokens=512)


def true_mean(source: Made, processor: MplugOwlProcessor, how: Encoding = HOW) -> float:
    examples = Examples([source], processor, how, seed=0)
    return sum(len(examples[SampleId(0, 0, i)]) for i in range(len(source))) / len(source)


@pytest.mark.parametrize("error", [0.01, 0.005])
def test_the_mean_is_known_to_its_error_without_reading_everything(
    error: float, processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "ERROR", error)
    source = Made(3_000)
    found = Survey([source]).lengths([1.0], processor, HOW, seed=0)
    assert found.measured == pytest.approx((0.12 / error) ** 2, abs=survey.BLOCK)  # their lengths vary by 12 %
    assert found.tokens == pytest.approx(true_mean(source, processor), rel=3 * error)
    assert found.pictures == 1
    assert found == Survey([source]).lengths([1.0], processor, HOW, seed=0)


LOOKS: dict[str, Callable[[Survey, MplugOwlProcessor], object]] = {
    "problems": lambda survey, processor: survey.problems,
    "pictured": lambda survey, processor: survey.pictured,
    "texts": lambda survey, processor: list(survey.texts(300)),
    "cuts": lambda survey, processor: survey.cuts(processor, HOW, 0),
    "lengths": lambda survey, processor: survey.lengths([1.0], processor, HOW, 0),
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_in_a_store_is_announced_before_it_is_read(look: str, processor: MplugOwlProcessor) -> None:
    source = Announced(300, captions=False)
    survey = Survey([source])
    LOOKS[look](survey, processor)
    assert not source.coming
    assert survey.problems == []  # which reads all of it once more
    assert not source.coming


def test_a_small_source_is_measured_in_full_and_sources_by_their_shares(processor: MplugOwlProcessor) -> None:
    pair = [Made(50), Made(70, captions=False)]
    found = Survey(pair).lengths([0.25, 0.75], processor, HOW, seed=0)
    means = [true_mean(source, processor) for source in pair]
    assert found.tokens == pytest.approx(0.25 * means[0] + 0.75 * means[1])
    assert (found.pictures, found.measured) == (0.25, 120)


def test_what_cannot_be_read_has_no_positions(processor: MplugOwlProcessor) -> None:
    """Nothing takes its place in a step, so it makes the mean sample shorter."""
    whole, broken = (Survey([Made(40, broken=every)]).lengths([1.0], processor, HOW, seed=0).tokens for every in (0, 4))
    assert 0.65 < broken / whole < 0.85
    with pytest.raises(ValueError, match="made: none of 40 records can be read"):
        Survey([Made(40, broken=1)]).lengths([1.0], processor, HOW, seed=0)


def test_prompts_are_counted(processor: MplugOwlProcessor) -> None:
    asked = Encoding(max_tokens=512, caption_prompts=True)
    bare, longer = (Survey([Made(100)]).lengths([1.0], processor, how, seed=0).tokens for how in (HOW, asked))
    assert longer == pytest.approx(true_mean(Made(100), processor, asked))
    assert longer > bare + 5


def test_whether_there_are_pictures() -> None:
    assert Survey([Made(10_000), Made(1, captions=False), Made(10, broken=1)]).pictured == [1, 0, 0]

    class Mixed(Made):
        def __getitem__(self, index: int) -> Conversation:
            return Made(self.count, captions=index > 6_000)[index]

    assert Survey([Mixed(10_000)]).pictured == [pytest.approx(0.4, abs=2 / LOOKED_AT)]


@dataclass
class Counted(Made):
    """Counts how often each record is read; its pictures are bytes."""

    def __post_init__(self) -> None:
        self.read = Counter[int]()

    def __getitem__(self, index: int) -> Conversation:
        self.read[index] += 1
        talk = super().__getitem__(index)
        return caption(PICTURE, talk.messages[-1].text)


def test_each_record_is_read_once_whatever_is_asked(processor: MplugOwlProcessor) -> None:
    source = Counted(40, broken=10)
    known = Survey([source])
    assert known.problems == [f"record {index} is broken" for index in (0, 10, 20, 30)]
    assert known.pictured == [1.0]
    assert len(list(known.texts(1000))) >= 36
    assert known.lengths([1.0], processor, HOW, seed=0).pictures == 0.9
    assert known.cuts(processor, Encoding(max_tokens=8), seed=0) == [Cut("made", 36, 36, 36, 36)]
    assert set(source.read.values()) == {1}
    assert sorted(source.read) == list(range(40))


def test_pictures_are_opened_where_records_are_checked_though_they_were_read_before() -> None:
    class Damaged(Counted):
        def __getitem__(self, index: int) -> Conversation:
            return caption(b"no picture", "a cat")

    known = Survey([Damaged(3)])
    assert known.pictured == [1.0]
    assert len(known.problems) == 3
    assert known.checked == 3


def test_large_sources_are_not_read_through() -> None:
    source = Counted(10_000)
    known = Survey([source, Made(3, captions=False)])
    assert (known.problems, known.checked, known.sizes) == ([], 3, [10_000, 3])
    assert not source.read
    assert known.pictured == [1.0, 0.0]
    assert sum(source.read.values()) == LOOKED_AT
