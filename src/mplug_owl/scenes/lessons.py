"""What is learned from the world: captions, talks about pictures, and the same in words alone, drawn when asked for.

`scenes:captions`, `scenes:reading` (captions where more is written), `scenes:spelled`, `scenes:chats`, `scenes:text` and
`scenes:lookups` (text, and nothing but which thing has what) are sources like any other, a million records each; `write` puts
some of them into a folder as files. `scenes:open:FILE.jsonl` are a language model's answers to open prompts about scenes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mplug_owl.conversation import Conversation, Message, Picture, caption
from mplug_owl.errors import UserError
from mplug_owl.scenes.abilities import KINDS, talk
from mplug_owl.scenes.questions import one
from mplug_owl.scenes.things import COLOURS, CORNERS, FRUIT_OF, KIND_OF, LIKE, NUMBER_WORDS, NUMBERS, a
from mplug_owl.scenes.world import Scene, scene, scenes

LESSONS = ("captions", "reading", "spelled", "chats", "text", "lookups")
# What asks for one thing's colour, shape, size or place, or what is in a place: all that is asked later begins with these.
LOOKUPS = tuple(KINDS["visual"][kind] for kind in ("colour", "shape", "size", "position", "at"))
RECORDS = 1_000_000
# How many questions are asked about one scene; more teach more for the cost of one picture.
ASKED = 16
LOOKED_UP = 12


@dataclass(frozen=True)
class Lessons:
    """Conversations about the scenes of a seed, as a source. The record of an index is always the same."""

    lesson: str
    seed: int = 0

    @property
    def name(self) -> str:
        """What it is opened as."""
        return f"scenes:{self.lesson}" + (f":{self.seed}" if self.seed else "")

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> Conversation:
        if not -RECORDS <= index < RECORDS:
            raise IndexError(f"{self.name}: no conversation {index} among {RECORDS}")
        name = f"{self.name}, record {index % RECORDS}"
        random = Random(f"{self.lesson} {self.seed} {index % RECORDS}")
        if self.lesson == "text":
            return _text(random, name)
        if self.lesson == "lookups":
            return _lookups(random, name)
        shown = scene(random.randrange(2**48), "letters" if self.lesson == "reading" else "seen")
        if self.lesson in ("captions", "reading"):
            return caption(shown.draw(), shown.caption, name)
        if self.lesson == "spelled":
            return caption(shown.draw(), shown.spelled, name)
        return _talk(Picture(shown.draw()), _turns(shown, random), name)


@dataclass(frozen=True)
class OpenAnswers:
    """Open prompts about scenes, with answers: a source of the file's lines, whose pictures are drawn when asked for."""

    name: str
    rows: tuple[tuple[int, str, str], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Conversation:
        seed, prompt, answer = self.rows[index]
        name = f"{self.name}, record {index % len(self)}"
        return Conversation(
            (Message("user", (Picture(scene(seed).draw()), prompt)), Message("assistant", (answer,))), name=name
        )


def open_answers(file: str) -> OpenAnswers:
    """Lines of `scene` (a seed), `prompt` and `answer`; one whose `kept` is false is left out.

    Raises UserError that names the line that is otherwise.
    """
    rows = []
    try:
        lines = Path(file).read_text("utf-8-sig").split("\n")  # an answer may hold what else Python takes for a line's end
    except (OSError, UnicodeError) as error:
        raise UserError(f"scenes:open:{file}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            seed, prompt, answer = row["scene"], row["prompt"], row["answer"]
        except (ValueError, TypeError, KeyError):
            seed = prompt = answer = None
        if not (isinstance(seed, int) and isinstance(prompt, str) and isinstance(answer, str)):
            raise UserError(f"{file}, line {number}: expected scene (a seed), prompt and answer in JSON")
        if row.get("kept", True):
            rows.append((seed, prompt, answer))
    if not rows:
        raise UserError(f"{file}: no answers in it; expected lines of scene, prompt and answer")
    return OpenAnswers(f"scenes:open:{file}", tuple(rows))


def open_lessons(spec: str) -> Lessons | OpenAnswers:
    """`captions`, `reading`, `spelled`, `chats`, `text` or `lookups`, with `:SEED` for others; or `open:FILE.jsonl`.

    Raises UserError for anything else.
    """
    lesson, _, seed = spec.partition(":")
    if lesson == "open":
        return open_answers(seed)
    if lesson not in LESSONS or (seed and not seed.isdecimal()):
        known = f"{', '.join(LESSONS)}, or scenes:open:FILE.jsonl"
        raise UserError(f"scenes:{spec}: expected scenes:LESSON or scenes:LESSON:SEED with one of {known}")
    return Lessons(lesson, int(seed or 0))


def questions_about(shown: Scene, count: int = ASKED) -> list[tuple[str, str]]:
    """Questions and answers about a scene, the same each time: `count` of them, and what leans on them."""
    return [turn for turns in talk(shown, count, Random(shown.seed)) for turn in turns]


def write(folder: Path, count: int, seed: int, questions: int = ASKED) -> list[Scene]:
    """Draw scenes into a folder, with captions.jsonl, chats.jsonl and, with descriptions in the pictures' place, text.jsonl."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    made = list(scenes(count, seed))
    captions, chats, text = [], [], []
    for number, shown in enumerate(made):
        name = f"{number:05d}.png"
        shown.draw().save(folder / "images" / name)
        turns = questions_about(shown, questions)
        captions.append({"image": name, "caption": shown.caption})
        chats.append({"messages": _messages({"type": "image", "path": name}, turns)})
        text.append({"messages": _messages({"type": "text", "text": shown.description}, turns)})
        text.append({"messages": _described(shown)})
    for name, rows in (("captions", captions), ("chats", chats), ("text", text)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def _text(random: Random, name: str) -> Conversation:
    """A lesson without a picture: a scene's description, with its caption or questions, or what everybody knows."""
    described = scene(random.randrange(2**48), "words" if random.random() < 0.15 else "text")
    lesson = random.random()
    if lesson < 0.2:  # a caption's lesson has no system sentence
        messages = (Message("user", (described.description,)), Message("assistant", (described.caption,)))
        return Conversation(messages, None, name=name)
    if lesson < 0.9:
        return _talk(described.description, _turns(described, random), name)
    return _talk(None, [_known(random) for _ in range(ASKED)], name)


def _lookups(random: Random, name: str) -> Conversation:
    """The description of two things or more, and short questions about single ones, of a kind again and again."""
    while len((described := scene(random.randrange(2**48), "text")).things) < 2 or (
        described.writings and random.random() < 0.8
    ):
        pass  # what is written is not asked for
    turns: list[tuple[str, str]] = []
    while len(turns) < LOOKED_UP:
        turns += random.choice(LOOKUPS)(described, random) or ()
    return _talk(described.description, turns, name)


def _turns(shown: Scene, random: Random) -> list[tuple[str, str]]:
    return [turn for turns in talk(shown, ASKED, random) for turn in turns]


def _known(random: Random) -> tuple[str, str]:
    """A question that needs no scene."""
    kind = random.randrange(6)
    if kind == 0:
        colour = random.choice(list(COLOURS))
        return one(random, FRUIT_OF[colour], f"Which fruit is {colour}?", f"Name a {colour} fruit.")[0]
    if kind == 1:
        shape, corners = random.choice(list(CORNERS.items()))
        return one(random, str(corners), f"How many corners does {a(shape)} have?", f"Count the corners of {a(shape)}.")[0]
    if kind == 2:
        shape, like = random.choice(list(LIKE.items()))
        return one(random, like, f"What in the world has the shape of {a(shape)}?")[0]
    if kind == 3:
        word, meaning = random.choice(list(KIND_OF.items()))
        return one(random, a(meaning), f"What does {word} name?", f"What kind of thing is meant by {word}?")[0]
    if kind == 4:
        number = random.choice(NUMBERS)
        return one(random, NUMBER_WORDS[number], f"Write {number} in words.", f"How is {number} called in words?")[0]
    first, second = random.choice(NUMBERS), random.choice(NUMBERS)
    return one(random, str(first + second), f"What is {first} plus {second}?", f"Add {first} and {second}.")[0]


def _talk(opening: Picture | str | None, turns: Sequence[tuple[str, str]], name: str) -> Conversation:
    messages = [] if opening is None else [Message("user", (opening,))]
    for question, answer in turns:
        messages += [Message("user", (question,)), Message("assistant", (answer,))]
    return Conversation(tuple(messages), name=name)


def _messages(opening: dict[str, str], turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": [opening]}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _described(shown: Scene) -> list[dict[str, str]]:
    """A caption's lesson without its picture. A caption has no system sentence, so this has none."""
    messages = (("system", ""), ("user", shown.description), ("assistant", shown.caption))
    return [{"role": role, "content": content} for role, content in messages]
