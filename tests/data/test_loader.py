"""From sources to batches: what one forward pass takes."""

import multiprocessing
import resource
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from mplug_owl import MplugOwlProcessor
from mplug_owl.conversation import Conversation
from mplug_owl.data import loader
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import MULTIPLE, Batch, StepDataset, step_loader
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import Source, read
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.processor import Example
from tests.world import scenes, write


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, 6, seed=1)
    return [read(f"{name}") for name in (f"chat:{folder}/chats.jsonl", f"chat:{folder}/text.jsonl")]


WHOLE = Encoding(max_tokens=1024)


def steps(
    sources: list[Source],
    processor: MplugOwlProcessor,
    batch: int = 4,
    micro_batch: int = 2,
    encoding: Encoding = WHOLE,
    **options,
) -> StepDataset:
    mixture = Mixture([len(source) for source in sources], [None] * len(sources), batch, seed=0)
    return StepDataset(Examples(sources, processor, encoding, seed=0), mixture, micro_batch, **options)


def same(one: Batch, other: Batch) -> bool:
    tensors, others = one.inputs, other.inputs
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_step_is_as_many_passes_as_it_takes(sources: list[Source], processor: MplugOwlProcessor) -> None:
    assert [len(batch.names) for batch in steps(sources, processor, batch=6, micro_batch=4)[0].batches] == [4, 2]


def test_pictures_and_text_alone_stand_side_by_side(sources: list[Source], processor: MplugOwlProcessor) -> None:
    (batch,) = steps(sources, processor, batch=9, micro_batch=9)[0].batches  # 6 with a picture to 12 without
    assert batch.pixel_values.shape == (3, 3, 28, 28)
    pictured = (batch.input_ids == processor.image_token_id).sum(1)
    assert sorted(pictured.tolist()) == [0] * 6 + [processor.num_image_tokens] * 3
    assert batch.tokens == int(batch.attention_mask.sum())


def test_padding_stands_on_the_right_and_is_never_learned(sources: list[Source], processor: MplugOwlProcessor) -> None:
    (batch,) = steps(sources, processor, batch=9, micro_batch=9)[0].batches
    lengths = batch.attention_mask.sum(1)
    width = batch.input_ids.shape[1]
    assert lengths.min() < lengths.max() <= width < lengths.max() + MULTIPLE
    assert width % MULTIPLE == 0  # kernels for it are there when it comes again
    for row, length in enumerate(lengths):
        assert batch.attention_mask[row, :length].all()
        assert (batch.labels[row, length:] == -100).all()
        supervised = batch.labels[row] != -100
        assert torch.equal(batch.labels[row][supervised], batch.input_ids[row][supervised])
    assert batch.supervised == int((batch.labels[:, 1:] != -100).sum()) > 0


def test_text_alone_has_no_pixels(sources: list[Source], processor: MplugOwlProcessor) -> None:
    (batch,) = steps(sources[1:], processor, batch=2)[0].batches
    assert batch.pixel_values is None
    assert "pixel_values" not in batch.inputs


def test_each_process_takes_its_share_and_none_twice(sources: list[Source], processor: MplugOwlProcessor) -> None:
    whole = [name for batch in steps(sources, processor, batch=8)[3].batches for name in batch.names]
    shares = [
        [name for batch in steps(sources, processor, batch=8, rank=rank, world=2)[3].batches for name in batch.names]
        for rank in (0, 1)
    ]
    assert sorted(shares[0] + shares[1]) == sorted(whole)
    assert [len(share) for share in shares] == [4, 4]


class Listening:
    """A source that remembers what it was told."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.heard = source, source.name, list[tuple[list[int], bool]]()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Conversation:
        return self.source[index]

    def expect(self, indices: list[int], nearby: bool) -> None:
        self.heard.append((list(indices), nearby))


@pytest.mark.parametrize("in_blocks", [False, True])
def test_sources_hear_of_the_samples_of_the_next_steps(
    sources: list[Source], processor: MplugOwlProcessor, in_blocks: bool
) -> None:
    """This process's own and no others, each step once, and none after the last."""
    listening = Listening(sources[0])
    mixture = Mixture([6], [None], 4, seed=0, blocks=[np.array([4, 2])] if in_blocks else None)
    dataset = StepDataset(Examples([listening], processor, WHOLE, seed=0), mixture, 4, rank=1, world=2)
    dataset.last = 17
    for number in (7, 9, 11):
        dataset[number]
    assert listening.heard == [
        ([one.index for step in told for one in mixture.share(step, 1, 2)], in_blocks)
        for told in (range(7, 8 + loader.AHEAD), range(8 + loader.AHEAD, 17), ())
    ]


def test_batches_are_the_same_whoever_makes_them(sources: list[Source], processor: MplugOwlProcessor) -> None:
    made = {workers: list(step_loader(steps(sources, processor), 2, 5, workers)) for workers in (0, 2)}
    assert [number for number, _ in made[0]] == [number for number, _ in made[2]] == [2, 3, 4]
    for (_, ours), (_, theirs) in zip(made[0], made[2], strict=True):
        assert all(same(one, other) for one, other in zip(ours.batches, theirs.batches, strict=True))


def test_in_blocks_too_whoever_makes_them_and_wherever_one_begins(sources: list[Source], processor: MplugOwlProcessor) -> None:
    def made(world: int, first: int, workers: int) -> list[list[list[str]]]:
        mixture = Mixture([6, 12], [None, None], 7, seed=0, blocks=[np.array([4, 2]), None])
        examples = Examples(sources, processor, WHOLE, seed=0)
        ranks = [StepDataset(examples, mixture, 4, rank, world) for rank in range(world)]
        return [
            [[name for batch in step.batches for name in batch.names] for _, step in step_loader(one, first, 9, workers)]
            for one in ranks
        ]

    alone = made(1, 0, 0)[0]
    for world, workers in ((1, 2), (2, 0), (4, 2)):
        shared = made(world, 5, workers)
        for number, whole in enumerate(alone[5:]):
            names = [name for rank in shared for name in rank[number] if name != "nothing"]
            assert sorted(names) == sorted(whole)


def test_a_picture_is_opened_once_while_it_is_remembered(
    sources: list[Source], processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    open_image = loader.open_image
    monkeypatch.setattr(loader, "open_image", lambda picture, *name: opened.append(picture) or open_image(picture, *name))
    made = steps(sources[:1], processor, batch=6)
    first, again = made[0].batches, made[0].batches
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    assert len(opened) == len(set(opened)) == 6

    monkeypatch.setattr(loader, "REMEMBERED_BYTES", 2 * 28 * 28 * 3)
    forgetful = steps(sources[:1], processor, batch=6)
    forgetful[0]
    assert len(forgetful._squares) == 2


def test_what_is_cut_is_counted(sources: list[Source], processor: MplugOwlProcessor) -> None:
    made = steps(sources[:1], processor, encoding=Encoding(max_tokens=40))
    assert all(batch.cut > 0 and batch.input_ids.shape[1] == 40 for batch in made[0].batches)


def test_the_pixels_are_the_scenes(sources: list[Source], processor: MplugOwlProcessor) -> None:
    (batch,) = steps(sources[:1], processor, batch=1, micro_batch=1)[0].batches
    line = int(batch.names[0].rsplit(" ", 1)[1])
    scene = list(scenes(6, seed=1))[line - 1]
    assert torch.equal(batch.pixel_values, processor(images=scene.draw())["pixel_values"])


def test_packed_rows_hold_the_same_tokens_without_padding(sources: list[Source], processor: MplugOwlProcessor) -> None:
    padded = steps(sources, processor, batch=9, micro_batch=9)
    packed = steps(sources, processor, batch=9, encoding=Encoding(max_tokens=1024, pack=1024))
    (one,), rows = padded[0].batches, packed[0].batches
    assert sorted(name for row in rows for name in row.names) == sorted(one.names)
    assert sum(row.tokens for row in rows) == sum(row.input_ids.numel() for row in rows) == one.tokens
    assert sum(row.supervised for row in rows) == one.supervised
    assert all(row.attention_mask is None and row.input_ids.shape[1] <= 1024 for row in rows)
    assert sum(int((row.position_ids == 0).sum()) for row in rows) == 9


VARIED = Encoding(max_tokens=1024, crop=0.5, caption_prompts=True)


@pytest.fixture(scope="module")
def captions(sources: list[Source]) -> list[Source]:
    """The same pictures, each with a caption."""
    return [read(f"captions:{Path(sources[0].name.split(':', 1)[1]).parent}/captions.jsonl")]


def by_name(steps: StepDataset, *numbers: int) -> dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]:
    """Ids and pixels of every sample of these steps, each in a pass of its own."""
    return {
        (batch.names[0], number): (batch.input_ids, batch.pixel_values) for number in numbers for batch in steps[number].batches
    }


def test_a_sample_varies_with_the_epoch_and_with_nothing_else(captions: list[Source], processor: MplugOwlProcessor) -> None:
    """Who makes it, in which company, before or after what: the seed, the epoch and the sample alone count."""
    alone = by_name(steps(captions, processor, batch=6, micro_batch=1, encoding=VARIED), 1, 0)  # a step is an epoch
    shared = {}
    for rank in (0, 1, 2):
        shared |= by_name(steps(captions, processor, batch=6, micro_batch=1, encoding=VARIED, rank=rank, world=3), 0, 1)
    assert alone.keys() == shared.keys()
    assert all(torch.equal(one, other) for key in alone for one, other in zip(alone[key], shared[key], strict=True))
    names = {name for name, _ in alone}
    assert all(not torch.equal(alone[name, 0][1], alone[name, 1][1]) for name in names)
    assert any(not torch.equal(alone[name, 0][0], alone[name, 1][0]) for name in names)
    pages = [processor.decode(ids[0]) for ids, _ in alone.values()]
    assert len({page.split("AI:")[0] for page in pages}) > 3


def test_varied_and_packed_they_are_the_same_whoever_makes_them(captions: list[Source], processor: MplugOwlProcessor) -> None:
    encoding = replace(VARIED, pack=1024)
    made = {workers: list(step_loader(steps(captions, processor, encoding=encoding), 2, 5, workers)) for workers in (0, 2)}
    for (_, ours), (_, theirs) in zip(made[0], made[2], strict=True):
        assert all(same(one, other) for one, other in zip(ours.batches, theirs.batches, strict=True))


def test_a_crop_of_everything_shows_everything_and_prompts_leave_talks_alone(
    sources: list[Source], processor: MplugOwlProcessor
) -> None:
    """The scenes are squares, so all of their area in another shape is none of theirs: the middle, which is all, stays."""
    plain = steps(sources, processor, batch=9)
    varied = steps(sources, processor, batch=9, encoding=Encoding(max_tokens=1024, crop=1.0, caption_prompts=True))
    assert all(same(one, other) for one, other in zip(plain[0].batches, varied[0].batches, strict=True))


def test_what_cannot_be_read_is_set_aside_and_the_rest_keeps_its_order(
    sources: list[Source], processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [name for batch in steps(sources[:1], processor, batch=6)[0].batches for name in batch.names]
    read_one = type(sources[0]).__getitem__

    def broken(self: Source, index: int) -> object:
        if index in (1, 4):
            raise BadSample(f"record {index} is broken")
        return read_one(self, index)

    monkeypatch.setattr(type(sources[0]), "__getitem__", broken)
    data = steps(sources[:1], processor, batch=6)[0]
    left = [name for batch in data.batches for name in batch.names]
    assert sorted(record.index for record in data.bad) == [1, 4]
    assert {record.reason for record in data.bad} == {"record 1 is broken", "record 4 is broken"}
    assert left == [name for name in whole if not name.endswith((" 2", " 5"))]


@pytest.mark.parametrize("broken", ["mplug_owl.data.examples.encode", "mplug_owl.data.loader.positions"])
def test_a_mistake_of_ours_is_a_crash_and_no_bad_sample(
    sources: list[Source], processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """In encoding and in collating: only BadSample is a sample's fault."""

    def mistaken(*args: object, **kwargs: object) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr(broken, mistaken)
    with pytest.raises(ValueError, match=r"^zip") as error:
        steps(sources, processor, encoding=Encoding(max_tokens=1024, pack=1024))[0]
    assert type(error.value) is ValueError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_does_not_answer_ends_the_run_with_its_sentence(processor: MplugOwlProcessor, workers: int) -> None:
    class Gone:
        name = "webdataset:s3://gone"

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Conversation:
            raise UserError("s3://gone: cannot be fetched")

    with pytest.raises(UserError, match=r"^s3://gone: cannot be fetched$") as error:
        list(step_loader(steps([Gone()], processor, batch=1), 0, 2, workers))
    assert error.value.__traceback__  # which holds the loader, and yet no worker is left
    assert not multiprocessing.active_children()


def test_a_process_left_with_nothing_still_takes_part(sources: list[Source], processor: MplugOwlProcessor) -> None:
    data = steps(sources, processor, batch=1, rank=1, world=2)[0]
    assert [(batch.supervised, batch.names) for batch in data.batches] == [(0, ("nothing",))]


def test_answers_may_weigh_alike(sources: list[Source], processor: MplugOwlProcessor) -> None:
    """Every run of supervised tokens sums to one, in padded and in packed rows, and the step is divided by their number."""
    for pack in (None, 1024):
        encoding = Encoding(max_tokens=1024, weigh="answers", pack=pack)
        made = steps(sources, processor, batch=6, micro_batch=6, encoding=encoding)
        (batch, *_) = made[0].batches
        supervised = batch.labels != -100
        supervised[:, 0] = False
        assert torch.equal(batch.loss_weights > 0, supervised)
        begins = supervised & ~supervised.roll(1, 1)
        assert batch.supervised == int(begins.sum()) == pytest.approx(float(batch.loss_weights.sum()))
        first = int(begins[0].nonzero()[0])
        length = int((~supervised[0, first:]).nonzero()[0])
        assert batch.loss_weights[0, first : first + length].tolist() == pytest.approx([1 / length] * length)


def test_nobody_predicts_the_first_token_of_a_packed_conversation(
    sources: list[Source], processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where an example says that it is supervised: the token before it is another conversation's."""
    monkeypatch.setattr(Examples, "__getitem__", lambda *_: Example((5, 6, 7), (True, True, True)))
    (batch,) = steps(sources, processor, batch=2, encoding=replace(WHOLE, pack=16))[0].batches
    assert batch.labels.tolist() == [[-100, 6, 7, -100, 6, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch.supervised == 4


def test_where_there_is_a_gpu_all_that_is_copied_to_it_is_pinned(
    sources: list[Source], processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA and what pins memory are played: whoever is asked to pin gives a copy whose place is noted."""
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append((copy := tensor.clone()).data_ptr())
        return copy

    made = steps(sources, processor, encoding=replace(WHOLE, weigh="answers"))[0]
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    there = made.pin_memory()
    assert all(same(one, other) for one, other in zip(made.batches, there.batches, strict=True))
    assert {tensor.data_ptr() for batch in there.batches for tensor in batch.inputs.values()} == set(pinned)
    assert (there.bad, there.batches[0].names) == (made.bad, made.batches[0].names)
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loader, "DataLoader", lambda *_, pin_memory, **__: asked.append(pin_memory) or [made])
    assert list(step_loader(steps(sources, processor), 0, 1, workers=0)) == [(0, made)]
    assert asked == [True]


def test_a_step_of_more_tensors_than_files_arrives_or_is_refused(sources: list[Source], processor: MplugOwlProcessor) -> None:
    """PyTorch loses it in the worker, and waits for ever."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with patch.object(loader, "_allow_open_files"), pytest.raises(UserError, match=r"^a step has 60 .* may open 256 files"):
            list(step_loader(steps(sources, processor, batch=60, micro_batch=1), 0, 1, 1))
        assert len(list(step_loader(steps(sources, processor, batch=2), 0, 1, 1))) == 1
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
