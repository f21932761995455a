"""Many conversations at once: rows leave, others join, and each says what it would say alone."""

import string
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.cache_utils import DynamicCache

from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.chat.decode import Choice, Prompt, Row, Rows, _drawn, decode
from mplug_owl.chat.settled import clean_answer
from mplug_owl.chat.streaming import StopAtWords
from mplug_owl.conversation import PLAIN, Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl
from tests.tiny import LANGUAGES, picture, shaken, tiny_config, tiny_owl, tiny_processor

# Keys and values, convolutions, slopes, sliding windows of 8: shorter than a prompt, and shorter than a picture's positions.
WORDS = ("What?", "What is that, and where?", "Who?", "Is it the same one as the one before it was taken away?", "Why so?")
RAGGED = Decoding(max_new_tokens=24, stop=("e", "r", "g", "t", "opppp"), repetition_penalty=1.3)


class Spelling(OwlChatModel):
    """An owl that answers in small letters alone."""

    def _generation_config(self, decoding: Decoding) -> GenerationConfig:
        config = super()._generation_config(decoding)
        letters = set(self.processor.tokenizer.convert_tokens_to_ids(list(string.ascii_lowercase)))
        config.suppress_tokens = [token for token in range(len(self.processor.tokenizer)) if token not in letters]
        return config


def made(language: str = "llama", **fields: Any) -> Owl:
    config = tiny_config(language=language)
    for name, value in fields.items():
        setattr(config.text_config, name, value)
    model = tiny_owl(config)
    shaken(model, 0.6)  # so that answers differ
    return Owl(model, tiny_processor(model))


def talks(count: int = 10) -> list[Conversation]:
    """Prompts of many lengths, with no picture, one or two."""
    shown = [Picture(picture(seed)) for seed in range(3)]
    return [
        Conversation(()).said("user", *shown[: number % 3], f"{number} {WORDS[number % len(WORDS)]}") for number in range(count)
    ]


def generated(model: OwlChatModel, talk: Conversation, decoding: Decoding) -> str:
    """The oracle: transformers' generate, alone."""
    sample = model.processor.encode(talk, reply=True)
    ids_BT = model.model.generate(
        **model.processor.batch([sample]),
        generation_config=model._generation_config(decoding),
        stopping_criteria=StoppingCriteriaList([StopAtWords(model._decode, decoding.stop, len(sample))]),
    )
    return clean_answer(model._decode(ids_BT[0, len(sample) :].tolist()), decoding.stop)


class Watched:
    """How many rows and positions the language model computed, call by call."""

    def __init__(self, owl: Owl) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.masks: list[int] = []
        owl.model.model.language_model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))
        self.masks.append(kwargs["attention_mask"].shape[1])

    @property
    def steps(self) -> list[int]:
        """Rows of each step after the prompts."""
        return [rows for rows, positions in self.shapes if positions == 1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_says_what_generate_says_of_it_alone(language: str) -> None:
    """Whoever stands beside it, leaves before it or joins after it."""
    owl = made(language)
    alone = [generated(Spelling(owl), talk, RAGGED) for talk in talks()]
    assert len({len(answer) for answer in alone}) > 2  # ragged, or this would prove nothing
    for batch_size in (2, 5, 100):
        assert Spelling(owl, batch_size).answers(talks(), RAGGED) == alone
    assert ["".join(Spelling(owl).stream(talk, RAGGED)) for talk in talks()] == alone


@pytest.mark.parametrize("language", ["llama", "lfm2", "gemma3", "bloom"])
def test_so_it_does_with_any_token_and_a_penalty(language: str) -> None:
    """Bytes of any kind, long answers, and tokens of the prompt and of the answer that become less likely."""
    owl, decoding = made(language), Decoding(max_new_tokens=16, repetition_penalty=1.7)
    alone = [generated(OwlChatModel(owl), talk, decoding) for talk in talks(6)]
    assert alone != [generated(OwlChatModel(owl), talk, Decoding(max_new_tokens=16)) for talk in talks(6)]
    assert OwlChatModel(owl, 4).answers(talks(6), decoding) == alone


def test_a_prompt_may_begin_with_a_picture() -> None:
    """Nothing in front of it, and shorter than the one beside it: padding is no picture."""
    owl = made()
    owl.processor.tokenizer.bos_token = None
    shown = [Conversation((), None, PLAIN).said("user", Picture(picture(seed)), "What?" * seed) for seed in range(3)]
    alone = [generated(Spelling(owl), talk, RAGGED) for talk in shown]
    assert owl.processor.encode(shown[0]).ids[0] == owl.processor.image_token_id
    assert Spelling(owl).answers(shown, RAGGED) == alone


def test_a_window_may_slide_before_or_after_others_join() -> None:
    for window in (3, 20, 130):
        owl = made("gemma3", sliding_window=window)
        alone = [generated(Spelling(owl), talk, RAGGED) for talk in talks()]
        assert Spelling(owl, 4).answers(talks(), RAGGED) == alone


def test_rows_that_are_done_leave_and_others_join() -> None:
    """Nothing is computed for an answer that is whole, and no more rows are computed than may be."""
    owl = made()
    model, watched = Spelling(owl, batch_size=4), Watched(owl)
    answers = _ids(model, talks(), RAGGED)
    assert sum(watched.steps) == sum(len(ids) - 1 for ids in answers)  # the first token comes with the prompt
    assert max(watched.steps) <= 4
    assert sum(rows for rows, positions in watched.shapes if positions > 1) == len(answers)
    assert watched.steps != sorted(watched.steps, reverse=True)  # some joined where others were on their way


def test_padding_that_nobody_needs_goes() -> None:
    """Rows come and go for ever in as many positions as the longest of them has."""
    owl = made()
    watched = Watched(owl)
    answers = Spelling(owl, batch_size=2).answers(talks(30), RAGGED)
    longest = max(len(owl.processor.encode(talk, reply=True)) for talk in talks(30)) + max(map(len, answers))
    assert max(watched.masks) <= longest + 1
    assert len(watched.steps) > longest / 2  # it would have grown far beyond


def test_answers_arrive_as_they_become_whole() -> None:
    owl = made()
    watched = Watched(owl)
    calls = []
    for index, answer in Spelling(owl).arriving(talks(), RAGGED):
        calls.append((index, answer, len(watched.shapes)))
    assert sorted(index for index, _, _ in calls) == list(range(10))
    assert [answer for _, answer, _ in sorted(calls)] == Spelling(owl).answers(talks(), RAGGED)
    assert calls[0][2] < calls[-1][2]


def test_what_is_drawn_depends_on_the_seed_and_the_position_alone() -> None:
    owl, decoding = made(), Decoding(max_new_tokens=12, temperature=1.5, top_p=0.95)
    said = []
    for batch_size in (1, 3, 100):
        torch.manual_seed(7)
        said.append(Spelling(owl, batch_size).answers(talks(6), decoding))
    assert said[0] == said[1] == said[2]
    assert Spelling(owl).answers(talks(6), decoding) != said[0]
    torch.manual_seed(7)
    same = [talks(1)[0]] * 6
    assert len(set(Spelling(owl).answers(same, decoding))) > 1


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """Chi-squared over 4,000 draws of one row; what has no mass is never drawn."""
    scores_V = torch.tensor([0.0, -torch.inf, 1.0, 2.0, -torch.inf])
    choice = Choice(tiny_owl(tiny_config()), GenerationConfig(), lambda ids: False)
    row = Row(0, [], 0, choice, torch.Generator().manual_seed(3))
    drawn = torch.cat([_drawn(scores_V[None], [row]) for _ in range(4000)])
    counts, expected = torch.bincount(drawn, minlength=5), 4000 * scores_V.softmax(-1)
    assert counts[[1, 4]].sum() == 0
    likely = [0, 2, 3]
    assert ((counts[likely] - expected[likely]) ** 2 / expected[likely]).sum() < 13.8  # p = 0.001 at two degrees of freedom


def test_an_answer_ends_at_the_last_position_whoever_stands_beside_it() -> None:
    """And a conversation that leaves no position for an answer is refused before any other is answered."""
    owl = made(max_position_embeddings=240)
    long, short = (Conversation((), system=None).said("user", "x" * count) for count in (200, 20))
    decoding = Decoding(max_new_tokens=300)
    answers = _ids(Spelling(owl), [long, short], decoding)
    lengths = [len(owl.processor.encode(talk, reply=True)) for talk in (long, short)]
    assert [length + len(ids) for length, ids in zip(lengths, answers, strict=True)] == [240, 240]
    watched = Watched(owl)
    with pytest.raises(UserError, match="the language model has 240, one of them for an answer"):
        next(Spelling(owl).arriving([short, Conversation(()).said("user", "x" * 240)], decoding))
    assert not watched.shapes


def test_an_end_token_ends_an_answer() -> None:
    """Here nearly every token is one."""
    owl = made()
    model = OwlChatModel(owl)
    whole = _ids(model, talks(8), Decoding(max_new_tokens=30))
    common = max({token for ids in whole for token in ids}, key=lambda token: sum(token in ids for ids in whole))
    owl.processor.tokenizer.eos_token = owl.processor.tokenizer.convert_ids_to_tokens(common)
    cut = _ids(model, talks(8), Decoding(max_new_tokens=30))
    assert cut == [ids[: ids.index(common) + 1] if common in ids else ids for ids in whole]
    assert cut != whole


@pytest.mark.parametrize("language", ["llama", "lfm2"])
def test_rows_join_and_are_cancelled_between_two_tokens_each_chosen_for_in_its_own_way(language: str) -> None:
    """As a server would: one row, another beside it after two tokens, the first one cancelled after two more."""
    owl = made(language)
    model = Spelling(owl)
    decodings = Decoding(max_new_tokens=9), Decoding(max_new_tokens=7, repetition_penalty=1.7), RAGGED
    choices = [Choice(model.model, model._generation_config(one), partial(model._stops, one)) for one in decodings]
    prompts = [Prompt(model.processor.encode(talk, reply=True).ids, talk.pictures) for talk in talks(3)]
    rows, done = Rows(model.model, model._look), dict[int, list[int]]()
    (first,) = rows.add([(0, prompts[0])], choices[0])
    for _ in range(2):
        rows.step()
    rows.add([(1, prompts[1])], choices[1])
    for _ in range(2):
        rows.step()
    rows.add([(2, prompts[2])], choices[2])
    done |= rows.leave([0])
    assert [row.number for row in rows.rows] == [1, 2]
    while rows.rows:
        rows.step()
        done |= rows.leave()
    alone = [_ids(Spelling(owl), [talk], one)[0] for talk, one in zip(talks(3), decodings, strict=True)]
    assert first.answer == alone[0][:5]
    assert done == {1: alone[1], 2: alone[2]}


def test_a_prompt_with_a_cache_is_added_by_itself() -> None:
    rows, prompt = Rows(tiny_owl(tiny_config()), lambda pictures: None), Prompt([1, 5, 6])
    with pytest.raises(ValueError, match="by itself"):
        rows.add([(0, prompt), (1, Prompt([1, 5, 6], cache=DynamicCache()))], cast(Choice, None))


def _ids(model: OwlChatModel, conversations: Sequence[Conversation], decoding: Decoding) -> list[list[int]]:
    """The ids of each answer, in the conversations' order."""
    prompts = [Prompt(model.processor.encode(talk, reply=True).ids, talk.pictures) for talk in conversations]
    config, ends = model._generation_config(decoding), partial(model._stops, decoding)
    return [ids for _, ids in sorted(decode(model.model, prompts, model._look, config, ends, model.batch_size))]


def test_words_drawn_all_but_cold_are_the_likeliest() -> None:
    """Logits that are divided by almost nothing are infinite, and what is drawn of them is the vocabulary's last entry."""
    model, talk = OwlChatModel(made()), [Conversation(()).said("user", "What is that?")]
    cold = model.answers(talk, Decoding(max_new_tokens=8))
    for temperature in (1e-20, 1e-40, 1e-300):
        assert model.answers(talk, Decoding(max_new_tokens=8, temperature=temperature)) == cold
