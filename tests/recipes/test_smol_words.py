"""f_K's first lesson: which words a picture is, how far from them it is, and that a lesson broken off continues as it was."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.recipes import smol_words
from mplug_owl.recipes.smol_words import FILLER, QUERIES, Words, learn, vocabulary, words_of
from mplug_owl.scenes.things import PLACES
from mplug_owl.scenes.world import Scene, scenes
from tests.tiny import tiny_config


def owl(missing: str | None = None) -> Owl:
    """A small owl whose tokenizer has each word of the lesson as one token, but for the `missing` one."""
    torch.manual_seed(0)
    known = ["<unk>", "</s>", ".", *(word for word in vocabulary() if word != missing)]
    entries = {word: index for index, word in enumerate(known)}
    config = tiny_config(num_query_tokens=QUERIES)
    config.visual_abstractor_config.attention_probs_dropout_prob = 0.0
    config.text_config.vocab_size = config.image_token_id = len(known)
    model = MplugOwlForConditionalGeneration(config)
    level = Tokenizer(models.WordLevel(entries, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=level, eos_token="</s>", unk_token="<unk>")
    return Owl(model, MplugOwlProcessor.for_model(model, tokenizer))


def facts(shown: Scene) -> set[str]:
    """What the words of a scene say, read back from them."""
    words, found = words_of(shown), set()
    for row in range(3):
        written = words[15 * row : 15 * row + 15]
        if written[0] in (" word", " number"):
            letters = [word.strip() for word in written[1:12] if word != FILLER]
            found.add(f"{''.join(letters)} {' '.join(word.strip() for word in written[12:])}")
            continue
        for column in range(3):
            *_, size, colour, shape = written[5 * column : 5 * column + 5]
            if size != " empty":
                found.add(f"{(size + colour + shape).strip()} {PLACES[row][column]}")
    return found


@pytest.mark.parametrize("split", ["seen", "letters", "combinations", "words"])
def test_words_say_all_of_a_scene_and_nothing_else(split: str) -> None:
    for shown in scenes(100, 3, split):
        said = facts(shown)
        if split == "seen":
            assert {f"{thing.size} {thing.name} {thing.place}" for thing in shown.things} <= said
        told = set(shown.description.replace("in the middle", "at the middle").split(", "))
        assert said == told
        assert len(words_of(shown)) == QUERIES
        assert set(words_of(shown)) <= set(vocabulary())


def test_loss_is_least_at_the_words_themselves() -> None:
    words, shown = Words.of(owl()), list(scenes(2, 5))
    right_IQE = torch.stack([words.embeddings_KE[[words.number[word] for word in words_of(one)]] for one in shown])
    least, hits_IQ = words.loss(right_IQE, shown)
    assert hits_IQ.all()
    more, missed_IQ = words.loss(right_IQE.flip(0), shown)
    assert more > least
    assert not missed_IQ.all()
    assert words.loss(right_IQE + 0.01, shown)[0] > least


def test_a_lesson_broken_off_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smol_words, "BATCH", 2)
    monkeypatch.setattr(smol_words, "SAVE_EVERY", 2)
    whole, begun, continued = owl(), owl(), owl()
    learn(whole, tmp_path / "whole", 4)
    monkeypatch.setattr(smol_words, "drawn", _broken_at(2, smol_words.drawn))
    with pytest.raises(KeyboardInterrupt):
        learn(begun, tmp_path / "broken", 4)
    monkeypatch.undo()
    monkeypatch.setattr(smol_words, "BATCH", 2)
    learn(continued, tmp_path / "broken", 4)
    states = [one.model.state_dict() for one in (whole, continued, owl())]
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[2][name])}
    assert all(name.startswith(("model.vision_tower.", "model.abstractor.")) for name in changed)
    assert "model.abstractor.query_tokens" in changed
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_word_of_two_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="purple"):
        Words.of(owl(missing=" purple"))


def _broken_at(step: int, drawn):  # type: ignore[no-untyped-def]
    def until(number: int) -> list[Scene]:
        if number == step:
            raise KeyboardInterrupt
        return drawn(number)

    return until
