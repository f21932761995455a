"""One run from recipe to finished folder: data checked first, who learns shown, what is cut told."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.data.encode import Encoding
from mplug_owl.errors import UserError
from mplug_owl.train.recipe import Recipe, Trainable
from mplug_owl.train.reporter import Screen
from mplug_owl.train.run import open_data, train
from tests.school import initial_model, lesson, lessons, weights
from tests.world import write


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, highlight=False)


def said(console: Console) -> str:
    return re.sub(r"\s+", " ", console.file.getvalue())


def recipe(data: Path, **fields) -> Recipe:
    write(data, 4, seed=1)
    return lesson(steps=2, data=(f"chat:{data}/chats.jsonl",), **fields)


def test_it_tells_who_learns_and_how_it_goes(tmp_path: Path, console: Console) -> None:
    finished = train(recipe(tmp_path / "data"), tmp_path / "run", reporter=Screen(console))
    assert finished == tmp_path / "run" / "model"
    told = said(console)
    assert "lesson: who learns" in told
    assert told.index("f_V vision") < told.index("step 1/2 loss") < told.index("step 2/2 loss")


def test_what_is_cut_is_told_before_it_starts(tmp_path: Path, console: Console) -> None:
    train(recipe(tmp_path / "data [v2]", encoding=Encoding(max_tokens=30)), tmp_path / "run", reporter=Screen(console))
    told = said(console)
    assert "data [v2]/chats.jsonl: of the first 4, 4 are cut at 30 tokens and 4 have nothing left to learn" in told
    assert told.index("nothing left to learn") < told.index("step 1/2")


@pytest.mark.parametrize(("language", "noted"), [("frozen", True), ("lora", False)])
def test_text_alone_beside_a_frozen_language_model_is_told(
    language: str, noted: bool, tmp_path: Path, console: Console
) -> None:
    """It takes its share of the steps and moves no weight."""
    made = recipe(tmp_path / "data")
    data = (*made.data, f"chat:{tmp_path}/data/text.jsonl")
    train(replace(made, data=data, trainable=Trainable("full", "full", language)), tmp_path / "run", reporter=Screen(console))
    told = said(console)
    assert ("text.jsonl: of the first 8 none shows a picture; text alone teaches nothing" in told) is noted
    assert "chats.jsonl: of the first 4 none" not in told


def test_samples_longer_than_the_models_positions_are_refused_before_the_first_step(tmp_path: Path, console: Console) -> None:
    made = recipe(tmp_path / "data", encoding=Encoding(max_tokens=5000))
    with pytest.raises(UserError, match=r"encoding\.max_tokens is 5000 and the language model has \d+ positions; expected"):
        train(made, tmp_path / "run", reporter=Screen(console))
    assert not (tmp_path / "run").exists()


def test_every_record_is_checked_before_the_first_step(tmp_path: Path, console: Console) -> None:
    made = recipe(tmp_path / "data")
    for number in (1, 3):
        (tmp_path / "data" / "images" / f"0000{number}.png").write_bytes(b"no picture")
    with pytest.raises(
        ValueError,
        match=r"^2 of 4 records cannot be read, more than max_bad_share=0\.05 allows:\n  chats\.jsonl, line 2.*\n.*line 4",
    ):
        train(made, tmp_path / "run", reporter=Screen(console))
    assert not (tmp_path / "run").exists()


def test_ten_broken_records_are_enough_to_read(tmp_path: Path, console: Console) -> None:
    (tmp_path / "broken.jsonl").write_text("{}\n" * 25)
    with pytest.raises(ValueError, match=r"^25 of 25 records cannot be read, more than max_bad_share=0.05 allows:") as caught:
        train(lesson(data=(f"chat:{tmp_path}/broken.jsonl",)), tmp_path / "run", reporter=Screen(console))
    assert len(str(caught.value).splitlines()) == 11


def test_a_kind_of_data_that_is_missing_is_told_before_a_model_is_made(tmp_path: Path, console: Console) -> None:
    made = recipe(tmp_path / "data", text_share=0.5, init_from=str(tmp_path / "no model is here"))
    with pytest.raises(
        ValueError, match=r"text_share=0\.5 needs .*chats\.jsonl have pictures: add one of text alone, or --set"
    ):
        train(made, tmp_path / "run", reporter=Screen(console))


def test_how_many_samples_come_to_the_tokens_is_told(tmp_path: Path, console: Console) -> None:
    train(recipe(tmp_path / "data", batch=None, batch_tokens=700), tmp_path / "run", reporter=Screen(console))
    assert re.search(r"\d+ samples a step come to 700 tokens: \d+\.\d a sample, measured on 4", said(console))


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path, console: Console) -> None:
    made = recipe(tmp_path / "data", save_every=1)
    train(made, tmp_path / "run", reporter=Screen(console))
    train(made, tmp_path / "run", resume=True, reporter=Screen(console))
    assert "run: resuming after step 1" in said(console)


def test_weights_of_sources(tmp_path: Path) -> None:
    write(tmp_path, 2, seed=1)
    chats, text = f"chat:{tmp_path}/chats.jsonl", f"chat:{tmp_path}/text.jsonl"
    assert open_data([chats, text])[1] == [None, None]
    assert open_data([f"{chats}@3", f"{text}@.5"])[1] == [3.0, 0.5]
    sources, _ = open_data([f"{chats}@3"])
    assert sources[0].name == chats


def test_an_at_sign_may_be_part_of_a_name(tmp_path: Path) -> None:
    write(tmp_path / "at@home", 2, seed=1)
    sources, shares = open_data([f"chat:{tmp_path}/at@home/chats.jsonl"])
    assert (len(sources[0]), shares) == (2, [None])


def test_the_same_seed_makes_the_same_owl(tmp_path: Path) -> None:
    sources = lessons(tmp_path)
    one, other, third = (weights(initial_model(lesson(seed=seed), sources).model) for seed in (1, 1, 2))
    assert all(one[name].equal(other[name]) for name in one)
    assert not all(one[name].equal(third[name]) for name in one)
