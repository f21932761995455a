"""What steps are made of: tokens counted, text and pictures in their shares, settled once and for all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mplug_owl import MplugOwlProcessor
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.sources import Source
from mplug_owl.train.batch import resolve_batch_size, text_alone
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
    settled, mixture = resolve_batch_size(recipe, sources, None, processor)
    assert settled == replace(recipe, batch=mixture.batch)
    examples = Examples(sources, processor, PACKED, recipe.seed)
    for number in (0, 10_000):
        read = [examples[sample] for sample in mixture.step(number)]
        assert sum(len(example) for example in read) == pytest.approx(150_000, rel=0.01)


def test_weights_of_sources_count(sources: list[Source], processor: MplugOwlProcessor) -> None:
    """Captions are the shortest, so more of them make up a step."""
    usual, captions = (resolve_batch_size(TOKENS, sources, weights, processor)[0].batch for weights in (None, [8.0, 1.0, 1.0]))
    assert captions > 1.1 * usual


def test_a_run_goes_on_with_the_batch_it_was_settled_on(
    sources: list[Source], processor: MplugOwlProcessor, tmp_path: Path
) -> None:
    """Even where its data would be measured otherwise now."""
    first, _ = resolve_batch_size(TOKENS, sources, None, processor)
    (tmp_path / "recipe.json").write_text(json.dumps(as_json(first)))
    told: list[str] = []
    again, mixture = resolve_batch_size(TOKENS, sources[:2], None, processor, tmp_path, told.append)
    assert (again, mixture.batch, told) == (first, first.batch, [])
    other = replace(TOKENS, batch_tokens=10_000)
    assert resolve_batch_size(other, sources, None, processor, tmp_path)[0].batch == pytest.approx(first.batch / 2, abs=1)
    assert resolve_batch_size(TOKENS, sources, None, processor, tmp_path / "no run")[0] == first


def test_a_batch_that_is_given_is_taken(sources: list[Source], processor: MplugOwlProcessor) -> None:
    given = replace(TOKENS, batch=6)
    assert resolve_batch_size(given, sources, None, processor)[0] == given


@pytest.mark.parametrize("world", [1, 2, 3])
def test_text_alone_has_its_share_of_every_step_however_many_processes(
    sources: list[Source], processor: MplugOwlProcessor, world: int
) -> None:
    recipe = lesson(batch=16, text_share=0.5, encoding=Encoding(max_tokens=256))
    _, mixture = resolve_batch_size(recipe, sources, [5.0, 1.0, 0.1], processor)
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
        text_alone(recipe, sources[:2])
    with pytest.raises(ValueError, match=r"text\.jsonl have no pictures: add one with pictures, or --set text_share=none"):
        text_alone(recipe, sources[2:])
    with pytest.raises(ValueError, match="have no pictures"):
        text_alone(replace(recipe, encoding=Encoding(max_tokens=256, pictures=False)), sources)
    assert text_alone(lesson(), sources[:1]) is None


def test_a_source_of_both_counts_among_those_with_pictures_and_is_named(sources: list[Source]) -> None:
    class Both:
        name = "both"

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int):
            return sources[1 + index % 2][index]

    told: list[str] = []
    assert text_alone(lesson(text_share=0.5), [Both(), sources[2]], told.append) == (False, True)
    assert told == ["both: 50% of its records show pictures; text_share counts it among those that do"]
