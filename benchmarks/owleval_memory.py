"""Three stages on OwlEval's fifty photographs, then: does the owl say of each picture what it was taught, and does it look?

Small modules are made from scratch. The language model learns the text alone (stage 0): questions and answers, but every
answer behind many questions, so that it knows how people talk and not which answer is right. Eyes and abstractor learn to
say the first sentence of each picture's first answer (stage 1), LoRA learns the conversations (stage 2). Asked the first
question of each picture, greedily, the owl should answer word for word; with the pictures exchanged it should not.

It proves that gradients, masks, pictures and generation are wired together rightly, from end to end. It says nothing of how
well such a model sees: these are the very pictures it was trained on.

    python -m benchmarks.owleval_memory [--data ../shared/owleval] [--out runs/owleval_memory]

A stage that is finished in the output folder is not trained again.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from rich.console import Console

from benchmarks.command import run
from mplug_owl.chat import Decoding, OwlChatModel, load
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.data.sources import Source, read
from mplug_owl.model.load import Owl
from mplug_owl.recipes import tiny
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.reporter import Screen
from mplug_owl.train.run import train

# How many times every question is put in front of another answer for the language model.
PAIRINGS = 10
ANSWERS = "answer/mPLUG_Owl_7b_answer.jsonl"


def first_sentence(text: str) -> str:
    """The words up to the first full stop, question mark or exclamation mark that a space follows."""
    found = re.match(r".+?[.!?](?=\s|$)", text.strip(), re.DOTALL)
    return found.group() if found else text.strip()


def prepare(source: Source, folder: Path, pictures: int) -> list[Conversation]:
    """Write sentences, captions and conversations as training data; return the conversations, answers cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    talks = [source[i] for i in range(min(pictures, len(source)))]
    captions, chats, questions, answers = [], [], [], []
    for talk in talks:
        messages = []
        for message in talk.messages:
            words = first_sentence(message.text) if message.role == "assistant" else message.text
            (answers if message.role == "assistant" else questions).append(words)
            seen = [{"type": "image", "path": str(picture.source)} for picture in message.parts if isinstance(picture, Picture)]
            messages.append({"role": message.role, "content": [*seen, {"type": "text", "text": words}]})
        # A caption is told as an answer to the picture alone, under the system sentence, where stage 2 will look for it.
        picture = {"role": "user", "content": [{"type": "image", "path": str(talk.pictures[0].source)}]}
        captions.append({"messages": [picture, {"role": "assistant", "content": first_sentence(talk.answers[0])}]})
        chats.append({"messages": messages})
    text = [{"messages": _turn(*pair)} for seed in range(PAIRINGS) for pair in _paired(questions, answers, seed)]
    for name, rows in (("text", text), ("captions", captions), ("chats", chats)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return talks


def stages(folder: Path, count: int) -> list[Recipe]:
    """The three recipes, their data and where each goes on from."""
    batch = min(count, 25)
    fresh = replace(tiny.FRESH, config=tiny.llama_owl_tiny, alike=False)
    data = (f"chat:{folder}/data/text.jsonl",)
    language = replace(tiny.language(), modules=fresh, data=data, steps=250, batch=32, micro_batch=8)
    pretrain = replace(
        tiny.pretrain(),
        data=(f"chat:{folder}/data/captions.jsonl",),
        init_from=str(folder / "language"),
        steps=250,
        batch=batch,
        micro_batch=batch,
    )
    instruct = replace(
        tiny.instruct(),
        lora=replace(tiny.instruct().lora, on="attention"),
        data=(f"chat:{folder}/data/chats.jsonl",),
        init_from=str(folder / "pretrain"),
        steps=80,
        batch=batch,
        micro_batch=batch,
    )
    return [language, pretrain, instruct]


def _paired(questions: list[str], answers: list[str], seed: int) -> list[tuple[str, str]]:
    shuffled = Random(seed).sample(answers, len(answers))
    return list(zip(questions, shuffled, strict=True))


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def hits(owl: Owl, talks: Sequence[Conversation], shift: int) -> int:
    """How many first questions are answered word for word, each asked about the picture `shift` places on."""
    asked = [
        Conversation(()).said("user", talks[(i + shift) % len(talks)].pictures[0], talk.messages[0].text)
        for i, talk in enumerate(talks)
    ]
    answers = OwlChatModel(owl, batch_size=8).answers(asked, Decoding())
    expected = [first_sentence(talk.answers[0]) for talk in talks]
    return sum(answer == target for answer, target in zip(answers, expected, strict=True))


def measure(data: Path, out: Path, pictures: int = 50, console: Console | None = None) -> dict[str, float]:
    """Train what is not trained yet and count: `own` and `exchanged` hits among `pictures`, seconds of training."""
    talks = prepare(read(f"owleval:{data / ANSWERS}"), out / "data", pictures)
    began = time.perf_counter()
    for recipe in stages(out, len(talks)):
        folder = out / recipe.name.rsplit(".", 1)[-1]
        if not (folder / "model" / "config.json").is_file():
            train(recipe, folder, resume=folder.exists(), reporter=Screen(console))
    seconds = time.perf_counter() - began
    owl = load(out / "instruct")
    shift = len(talks) // 3 or 1
    return {"pictures": len(talks), "own": hits(owl, talks, 0), "exchanged": hits(owl, talks, shift), "seconds": seconds}


def main() -> None:
    """Train what is missing, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "owleval")
    parser.add_argument("--out", type=Path, default=Path("runs/owleval_memory"))
    arguments = parser.parse_args()
    found = measure(arguments.data, arguments.out)
    print(f"word for word, its own picture: {found['own']} of {found['pictures']} (bar: at least 45)")
    print(f"word for word, pictures exchanged: {found['exchanged']} of {found['pictures']} (bar: at most 5)")
    print(f"training: {found['seconds']:.0f} s")


if __name__ == "__main__":
    run(main)
