"""What steps are made of: tokens counted, text and pictures in their shares, settled once and for all."""

from dataclasses import replace

import numpy as np
import pytest

from mplug_owl import MplugOwlProcessor
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.sources import Source
from mplug_owl.data.survey import Survey
from mplug_owl.train.batch_size import resolve_batch_size, text_only
from mplug_owl.train.recipe import as_json
from tests.data.test_survey import Made
from tests.school import lesson, lessons

PACKED = Encoding(max_tokens=256, pack=512)
TOKENS = lesson(batch=None, batch_tokens=20_000, encoding=PACKED)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Captions, chats about pictures and chats of words alone."""
    return lessons(tmp_path_factory.mktemp("data"), "captions", "chat", "text")


def test_every_step_is_within_a_percent_of_its_tokens(processor: MplugOwlProcessor) -> None:
    """Of 150,000; how near 2.1 M come is measured by benchmarks/packing.py."""
    sources, recipe = [Made(50_000)], replace(TOKENS, batch_tokens=150_000)
    settled, mixture = resolve_batch_size(recipe, Survey(sources), processor)
    assert settled == replace(recipe, batch=mixture.batch)
    examples = Examples(sources, processor, PACKED, recipe.seed)
    for number in (0, 10_000):
        read = [examples[sample] for sample in mixture.step(number)]
        assert sum(len(example) for example in read) == pytest.approx(150_000, rel=0.01)


def test_weights_of_sources_count(sources: list[Source], processor: MplugOwlProcessor) -> None:
    """Captions are the shortest, so more of them make up a step."""
    mixed = Survey(sources), Survey(sources, [8.0, 1.0, 1.0])
    usual, captions = (resolve_batch_size(TOKENS, survey, processor)[0].batch for survey in mixed)
    assert captions > 1.1 * usual


def test_a_resumed_run_takes_the_batch_that_was_measured(sources: list[Source], processor: MplugOwlProcessor) -> None:
    """Even where its data would be measured otherwise now."""
    first, _ = resolve_batch_size(TOKENS, Survey(sources), processor)
    saved, notes = as_json(first), []
    again, mixture = resolve_batch_size(TOKENS, Survey(sources[:2]), processor, saved, notes.append)
    assert (again, mixture.batch, notes) == (first, first.batch, [])
    other = replace(TOKENS, batch_tokens=10_000)
    assert resolve_batch_size(other, Survey(sources), processor, saved)[0].batch == pytest.approx(first.batch / 2, abs=1)


def test_a_batch_that_is_given_is_taken(sources: list[Source], processor: MplugOwlProcessor) -> None:
    given = replace(TOKENS, batch=6)
    assert resolve_batch_size(given, Survey(sources), processor)[0] == given


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 6), (0.5, 3), (2.3, 13), (0.001, 1)])
def test_epochs_are_steps_of_as_many_samples(
    epochs: float, steps: int, sources: list[Source], processor: MplugOwlProcessor
) -> None:
    """32 records, six a step; the last step of an epoch that does not come out even begins the next."""
    notes: list[str] = []
    recipe = lesson(steps=None, epochs=epochs, batch=6)
    settled, _ = resolve_batch_size(recipe, Survey(sources), processor, note=notes.append)
    assert (settled.steps, settled.epochs) == (steps, None)
    assert notes == [f"{epochs:g} epochs of 32 records are {steps} steps of 6 samples"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_text_alone_has_its_share_of_every_step_however_many_processes(
    sources: list[Source], processor: MplugOwlProcessor, world: int
) -> None:
    recipe = lesson(batch=16, text_share=0.5, encoding=Encoding(max_tokens=256))
    _, mixture = resolve_batch_size(recipe, Survey(sources, [5.0, 1.0, 0.1]), processor)
    examples = Examples(sources, processor, recipe.encoding, recipe.seed)
    for number in range(12):
        passes = [batch for rank in range(world) for batch in StepDataset(examples, mixture, 1, rank, world)[number].batches]
        pictures = [batch.pixel_values is not None for batch in passes]
        assert (len(pictures), sum(pictures)) == (16, 8)
        captions = sum("captions" in batch.names[0] for batch in passes)
        assert 6 <= captions <= 7  # five of the six parts that have pictures


def test_a_kind_that_is_missing_is_told_with_what_helps(sources: list[Source]) -> None:
    recipe = lesson(text_share=0.5)
    with pytest.raises(
        ValueError, match=r"text_share=0\.5 needs .*captions\.jsonl.* have pictures: add one of text alone, or --"
    ):
        text_only(recipe, Survey(sources[:2]))
    with pytest.raises(ValueError, match=r"text\.jsonl have no pictures: add one with pictures, or --set text_share=none"):
        text_only(recipe, Survey(sources[2:]))
    with pytest.raises(ValueError, match="have no pictures"):
        text_only(replace(recipe, encoding=Encoding(max_tokens=256, pictures=False)), Survey(sources))
    assert text_only(lesson(), Survey(sources[:1])) is None


def test_a_source_of_both_counts_among_those_with_pictures_and_is_named(sources: list[Source]) -> None:
    class Both:
        name = "both"

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int):
            return sources[1 + index % 2][index]

    told: list[str] = []
    assert text_only(lesson(text_share=0.5), Survey([Both(), sources[2]]), told.append) == (False, True)
    assert told == ["both: 50% of its records show pictures; text_share counts it among those that do"]


class Blocked(Made):
    """A source that is best read block by block."""

    @property
    def blocks(self) -> np.ndarray:
        return np.array([len(self) - 30, 30])


def test_blocks_are_read_where_the_recipe_says_so(processor: MplugOwlProcessor) -> None:
    sources, notes = [Blocked(100), Made(100)], list[str]()
    for order, expected in (("random", (False, False)), ("blocks", (True, False))):
        recipe = lesson(batch=8, order=order)
        _, mixture = resolve_batch_size(recipe, Survey(sources), processor, as_json(recipe), notes.append)
        assert mixture.in_blocks == expected
    assert notes == []


def test_a_resumed_run_says_that_the_order_of_its_large_sources_changes(processor: MplugOwlProcessor) -> None:
    recipe, notes = lesson(), list[str]()
    saved = {name: value for name, value in as_json(recipe).items() if name != "order"}
    resolve_batch_size(recipe, Survey([Made(2**20)]), processor, saved, notes.append)
    assert notes == []
    resolve_batch_size(recipe, Survey([Made(2**20 + 1)]), processor, saved, notes.append)
    assert notes == [
        "sources of more than 1,048,576 records come in another order than when this run was begun, from the next step on"
    ]
