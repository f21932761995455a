"""A language model's own chat format: the ids of nineteen families' own templates, and the answers marked in them."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from mplug_owl.conversation import IMAGE_MARK, SYSTEM_PROMPT, Conversation, Message, Picture, caption
from mplug_owl.errors import RefusedConversationError, UserError
from mplug_owl.model.template import ChatFormat, chat_format, chosen_template, with_pictures
from tests.model.families import BY_NAME, FAMILIES, Family, tokenizer_of

PICTURE = Picture("cat.png")
SYSTEMS = (SYSTEM_PROMPT, None, "Be brief.", " Answer in\n\nJSON. ")
WORDS = ["What is this?", "A cat.", " And\n", "\n\nTwo dogs.  ", "x", "é 猫", "[INS] hello", "  ", ""]


@pytest.fixture(autouse=True)
def friday(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day that our prompts have, for transformers' own rendering."""

    class Day(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Day":
            return cls(2024, 7, 26, 12)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family: Family) -> PreTrainedTokenizerFast:
    return tokenizer_of(family)


@pytest.fixture(scope="module")
def theirs(family: Family) -> PreTrainedTokenizerFast:
    """The same with a special token for pictures, as transformers' own processors have it."""
    found = tokenizer_of(family)
    found.add_tokens([IMAGE_MARK], special_tokens=True)
    return found


@pytest.fixture(scope="module")
def ours(tokenizer: PreTrainedTokenizerFast, family: Family) -> ChatFormat:
    return chat_format(with_pictures(family.template, tokenizer), tokenizer)


def messages_of(talk: Conversation, family: Family) -> list[dict[str, str]]:
    """A conversation as the family's authors would write it."""
    said = [
        {"role": one.role, "content": "".join(part if isinstance(part, str) else IMAGE_MARK for part in one.parts)}
        for one in talk.messages
    ]
    system = None if talk.system == SYSTEM_PROMPT else talk.system or ""
    if system is None or (system == "" and not family.system):
        return said
    if not family.system:
        return [{"role": "user", "content": f"{system}\n\n{said[0]['content']}"}, *said[1:]]
    return [{"role": "system", "content": system}, *said]


def their_ids(talk: Conversation, family: Family, tokenizer: PreTrainedTokenizerFast, reply: bool) -> list[int]:
    """What apply_chat_template gives. No system sentence is an empty one, or none, whichever leaves less."""

    options: dict[str, Any] = {"add_generation_prompt": reply}
    if family.thinks:
        options["enable_thinking"] = False
    messages = messages_of(talk, family)
    if messages[0] == {"role": "system", "content": ""}:
        said = (messages[1:], messages)
        messages = min(said, key=lambda one: len(tokenizer.apply_chat_template(one, tokenize=False, **options)))
    return tokenizer.apply_chat_template(messages, return_dict=False, **options)


def talks() -> Iterator[Conversation]:
    """One to six turns under every system sentence, pictures in any of them, empty answers, space around words."""
    picture = [(PICTURE, "What is this?"), ("And this? ", PICTURE, " Look."), (PICTURE, PICTURE, "\nA"), ("x", PICTURE)]
    for turns in range(1, 7):
        messages = list[Message]()
        for turn in range(turns):
            messages.append(Message("user", picture[turn] if turn in (0, turns - 1) and turn < 4 else (WORDS[turn],)))
            messages.append(Message("assistant", (["A cat.", " a dog\n", "", "Two\n\ndogs.", "[INS] é", "  "][turn],)))
        for number, system in enumerate(SYSTEMS):
            yield Conversation(tuple(messages[: len(messages) - (turns + number) % 2]), system)


def test_ids_are_the_familys_own(ours: ChatFormat, family: Family, theirs: PreTrainedTokenizerFast) -> None:
    image = theirs.convert_tokens_to_ids(IMAGE_MARK)
    for said in talks():
        reply = said.messages[-1].role == "user"
        expected = their_ids(said, family, theirs, reply)
        assert theirs.convert_ids_to_tokens(ours.encode(said, [image], reply)[0]) == theirs.convert_ids_to_tokens(expected)


def test_answers_and_their_ends_are_supervised(ours: ChatFormat, family: Family, tokenizer: PreTrainedTokenizerFast) -> None:
    """Seen from the other side: what the model has to write after each prompt, up to the token that closes it."""
    end = tokenizer.convert_tokens_to_ids(family.ends or family.eos)
    assert ours.end_of_turn == end
    talk = Conversation(
        (
            Message("user", (PICTURE, "What?")),
            Message("assistant", ("A cat.",)),
            Message("user", ("And this?",)),
            Message("assistant", ("Unheard.",), supervised=False),
            Message("user", ("Well?",)),
            Message("assistant", ("",)),
            Message("user", ("Well?",)),
            Message("assistant", ("Two dogs.",)),
        )
    )
    ids, mask = ours.encode(talk, [-1] * 3)
    runs = "".join("#" if supervised else " " for supervised in mask).split()
    assert len(runs) == 2
    learned = [token for token, supervised in zip(ids, mask, strict=True) if supervised]
    assert [index for index, token in enumerate(learned) if token == end] == [len(runs[0]) - 1, len(learned) - 1]
    assert tokenizer.decode(learned[: len(runs[0]) - 1]).strip() == "A cat."
    assert tokenizer.decode(learned[len(runs[0]) : -1]).strip() == "Two dogs."
    first = mask.index(True)
    prompt, _ = ours.encode(replace(talk, messages=talk.messages[:1]), [-1] * 3, reply=True)
    if not family.thinks and family.name != "deepseekv3":  # whose templates leave thinking out of earlier turns
        assert tokenizer.decode([token for token in prompt if token >= 0]) == tokenizer.decode(
            [token for token in ids[:first] if token >= 0]
        )


def test_a_caption_is_the_picture_alone(ours: ChatFormat, family: Family, theirs: PreTrainedTokenizerFast) -> None:
    image = theirs.convert_tokens_to_ids(IMAGE_MARK)
    ids, _ = ours.encode(caption("cat.png", "a cat"), [image])
    talk = Conversation((Message("user", (PICTURE,)), Message("assistant", ("a cat",))), None)
    assert ids == their_ids(talk, family, theirs, False)
    assert len(ids) <= len(ours.encode(replace(talk, system=SYSTEM_PROMPT), [image])[0])


def test_what_is_typed_never_becomes_a_control_token(
    ours: ChatFormat, family: Family, tokenizer: PreTrainedTokenizerFast
) -> None:
    every = [*family.special, *(word for word in family.words if not word.isspace() and "▁" not in word), IMAGE_MARK]
    quiet = Conversation((Message("user", ("",)), Message("assistant", ("A cat.",))))
    loud = Conversation((Message("user", (f"a{''.join(every)}b\n{' '.join(every)}",)), Message("assistant", ("A cat.",))))
    counts = [[ours.encode(talk, [])[0].count(token) for token in tokenizer.added_tokens_decoder] for talk in (quiet, loud)]
    control = [token.content not in family.words or token.content in every for token in tokenizer.added_tokens_decoder.values()]
    assert [count for count, kept in zip(counts[0], control, strict=True) if kept] == [
        count for count, kept in zip(counts[1], control, strict=True) if kept
    ]
    said = tokenizer.decode(ours.encode(loud, [])[0]).replace("▁", " ")
    assert IMAGE_MARK in said


def test_a_saved_template_says_the_same_to_other_programs(
    ours: ChatFormat, family: Family, theirs: PreTrainedTokenizerFast
) -> None:
    """With parts in place of words, without our code: transformers' own rendering of what is in chat_template.jinja."""
    image = theirs.convert_tokens_to_ids(IMAGE_MARK)
    for said in talks():
        chat = [] if said.system == SYSTEM_PROMPT else [{"role": "system", "content": said.system or ""}]
        for one in said.messages:
            parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in one.parts]
            chat.append({"role": one.role, "content": parts})
        options = {"chat_template": ours.template, "add_generation_prompt": said.messages[-1].role == "user"}
        found = theirs.apply_chat_template(chat, return_dict=False, **options)
        assert found == ours.encode(said, [image], options["add_generation_prompt"])[0]


@settings(max_examples=50)
@given(
    st.sampled_from(["qwen3", "llama2", "phi3", "gemma", "mistral"]),
    st.lists(st.text(st.sampled_from("aAT .\n\t[]é<>|"), max_size=8), min_size=1, max_size=5),
    st.sampled_from(SYSTEMS),
)
def test_any_words_merge_as_the_family_merges_them(name: str, said: list[str], system: str | None) -> None:
    family = BY_NAME[name]
    tokenizer = _kept(name)
    roles = ("user", "assistant")
    talk = Conversation(tuple(Message(roles[index % 2], (words,)) for index, words in enumerate(said)), system)
    reply = len(said) % 2 == 1
    ours = chat_format(with_pictures(family.template, tokenizer), tokenizer)
    assert ours.encode(talk, [], reply)[0] == their_ids(talk, family, tokenizer, reply)


_TOKENIZERS: dict[str, PreTrainedTokenizerFast] = {}


def _kept(name: str) -> PreTrainedTokenizerFast:
    return _TOKENIZERS.setdefault(name, tokenizer_of(BY_NAME[name]))


# Templates that cannot be used


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% for message in messages %}{{ message.content }}\n{% endfor %}", "no token that ends an answer"),
        ("{% for message in messages %}{{ message.role }}<|im_end|>{% endfor %}", "leaves out or repeats"),
        ("{% for message in messages %}{{ message.content * 2 }}<|im_end|>{% endfor %}", "leaves out or repeats"),
        ("{% for message in messages %}{{ message.content | upper }}<|im_end|>{% endfor %}", "rewrites what is said"),
        ("{% for message in messages %}{{ message.content[::-1] }}<|im_end|>{% endfor %}", "changes the order|rewrites"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% for", "unexpected"),
        ("{{ messages[9].content.upper() }}", "no element 9"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "longer than 0.3 seconds"),
        ("{{ 'a' * 10**12 }}", "too large|too long"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(text: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "seconds" in problem:  # the others must not end by it, however busy the machine is
        monkeypatch.setattr("mplug_owl.model.template_sandbox.SECONDS", 0.3)
    tokenizer = _kept("qwen2_5")
    monkeypatch.setattr(tokenizer, "chat_template", text)
    with pytest.raises(UserError, match=f"^the language model: .*({problem})"):
        chosen_template("auto", tokenizer)


def test_the_prompt_is_the_models_own_the_originals_or_a_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer = tokenizer_of(BY_NAME["zephyr"])
    own = chosen_template("auto", tokenizer)
    assert own is not None
    assert own.endswith(BY_NAME["zephyr"].template)
    assert chosen_template("owl", tokenizer) is None
    tokenizer.chat_template = own  # as it is saved
    assert chosen_template("auto", tokenizer) == own
    tokenizer.chat_template = None
    assert chosen_template("auto", tokenizer) is None
    file = tmp_path_factory.mktemp("prompt") / "mine.jinja"
    file.write_text(BY_NAME["mistral"].template)
    assert (chosen_template(str(file), tokenizer) or "").endswith(BY_NAME["mistral"].template)
    with pytest.raises(UserError, match=r"prompt is 'nowhere.jinja'; expected auto, owl, or the file"):
        chosen_template("nowhere.jinja", tokenizer)


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    tokenizer = _kept("gemma")
    ours = chat_format(with_pictures(BY_NAME["gemma"].template, tokenizer), tokenizer)
    twice = Conversation(
        (Message("user", ("a",)), Message("assistant", ("b",)), Message("assistant", ("c",))), name="talks.json: 7"
    )
    with pytest.raises(RefusedConversationError, match=r"^talks.json: 7: .*must alternate"):
        ours.spans(twice)
    # The original's prompt has a picture in a message of its own, and who wants turns to alternate gets them so.
    for apart, once in (((PICTURE,), (PICTURE, "b")), (("a",), ("a\nb",))):
        said, asked = (Conversation((*(Message("user", parts) for parts in each),)) for each in ((apart, ("b",)), (once,)))
        assert tokenizer.decode(ours.encode(said, [0])[0]) == tokenizer.decode(ours.encode(asked, [0])[0])


def test_a_prompt_that_is_no_file_of_text_is_named(tmp_path: Path) -> None:
    tokenizer = _kept("qwen2_5")
    (tmp_path / "latin.jinja").write_bytes("{{ 'é' }}".encode("latin-1"))
    for prompt in ("{{ messages }}" * 50, str(tmp_path / "latin.jinja"), str(tmp_path)):
        with pytest.raises(UserError, match=r"prompt is '.*; expected auto, owl, or the file of a chat template"):
            chosen_template(prompt, tokenizer)


def test_a_template_that_cannot_be_used_has_a_way_without(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = _kept("qwen2_5")
    for text in ("{% for", "{{ raise_exception('never') }}", "{{ 'a' * 10**12 }}"):
        monkeypatch.setattr(tokenizer, "chat_template", text)
        with pytest.raises(UserError, match="prompt=owl"):
            chosen_template("auto", tokenizer)


def test_of_several_templates_the_default_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = _kept("qwen2_5")
    own = tokenizer.chat_template
    monkeypatch.setattr(tokenizer, "chat_template", {"default": own, "rag": "{{ 1 }}"})
    assert (chosen_template("auto", tokenizer) or "").endswith(own)
    monkeypatch.setattr(tokenizer, "chat_template", {"tool_use": own, "rag": own})
    with pytest.raises(UserError, match="its chat templates are tool_use, rag and none is default; expected prompt=FILE, or"):
        chosen_template("auto", tokenizer)
