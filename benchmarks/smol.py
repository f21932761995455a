"""owl-smol: what it sees, what is left of its language, and whether open prompts are answered about the picture.

    python -m benchmarks.smol --model runs/owl-smol --questions ../shared/vicuna_bench [--sections exam open language time]

- exam: the drawn world by ability, with the picture, without it, and of colours and shapes never shown together;
- open: prompts that no lesson had, with the right picture and with another scene's: the share of answers that name something
  and nothing that is not in the scene (mplug_owl/scenes/grounded.py);
- language: perplexity of text that no training had, the project's tutorials as plain text and GPT-4's reference answers in a
  chat, and answers side by side, the base's and owl-smol's;
- time: first word and whole answer about a picture that was not seen before.

One thread. Figures stand beside their bars; `--out` keeps everything that was answered, as JSON.
"""

import argparse
import html
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.beside import ROOT
from benchmarks.command import count, machine, new_file, run
from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.conversation import Conversation, Message, Picture
from mplug_owl.eval.grade import evaluate
from mplug_owl.eval.task import Condition
from mplug_owl.eval.tasks.scenes import WORLD, DrawnWorld
from mplug_owl.model.build import build
from mplug_owl.model.load import Owl, load
from mplug_owl.recipes.smol import OWL_SMOL
from mplug_owl.scenes.grounded import is_grounded
from mplug_owl.scenes.world import Scene, scenes

CONDITIONS = (
    Condition("seen", "picture", "with the picture", WORLD),
    Condition("seen", "none", "without", WORLD),
    Condition("combinations", "picture", "unseen combinations", WORLD),
)
OPEN_PROMPTS = (
    "Describe it as a pirate.",
    "Write a two-line poem about what is in it.",
    "What would you cook with these colours?",
    "What is in it? Answer in JSON.",
    "Invent a title for a painting of it.",
    "Tell a very short story about what you see.",
    "Which of these things would a child like best, and why?",
    "Write an advertisement for what is shown.",
)
SECTIONS = ("exam", "open", "language", "time")
SCENES_SEED = 77
MOST_WORDS = 64
WINDOW = 512


def shown_with(picture: Scene, words: str) -> Conversation:
    """A question about a scene's picture."""
    return Conversation((Message("user", (Picture(picture.draw()), words)),))


def exam(owl: Owl, count: int) -> dict[str, Any]:
    """Percent correct by condition, overall and by ability; `count` questions an ability."""
    found: dict[str, Any] = {}
    grades = evaluate(OwlChatModel(owl, batch_size=32), DrawnWorld(), count, 0, CONDITIONS)
    for condition in CONDITIONS:
        mine = [grade for grade in grades if grade.answer.condition == condition]
        abilities = sorted({grade.answer.question.ability for grade in mine})
        rows = {ability: [grade.correct for grade in mine if grade.answer.question.ability == ability] for ability in abilities}
        found[condition.title] = {
            "overall": 100 * statistics.mean(grade.correct for grade in mine),
            **{ability: 100 * statistics.mean(right) for ability, right in rows.items()},
        }
    found["wrong"] = [grade.row() for grade in grades if not grade.correct]
    return found


def open_prompts(owl: Owl, count: int) -> dict[str, Any]:
    """Each open prompt about `count` scenes, with the scene's picture and with the next scene's, graded against the scene."""
    asked = list(scenes(count, SCENES_SEED))
    chat, rows, shares = OwlChatModel(owl, batch_size=16), list[dict[str, object]](), dict[str, float]()
    for kind, offset in (("right", 0), ("exchanged", 1)):
        pairs = [(prompt, index) for prompt in OPEN_PROMPTS for index in range(count)]
        talks = [shown_with(asked[(index + offset) % count], prompt) for prompt, index in pairs]
        said = chat.answers(talks, Decoding(max_new_tokens=MOST_WORDS))
        graded = [is_grounded(answer, asked[index]) for answer, (_, index) in zip(said, pairs, strict=True)]
        shares[kind] = 100 * statistics.mean(graded)
        for (prompt, index), answer, good in zip(pairs, said, graded, strict=True):
            rows.append(
                {"shown": kind, "prompt": prompt, "scene": asked[index].description, "answer": answer, "grounded": good}
            )
        for prompt in OPEN_PROMPTS:
            mine = [good for (one, _), good in zip(pairs, graded, strict=True) if one == prompt]
            shares[f"{kind}: {prompt}"] = 100 * statistics.mean(mine)
    return {**shares, "answers": rows}


def plain_perplexity(owl: Owl, text: str) -> float:
    """Perplexity of a text without any chat around it, in windows of `WINDOW` tokens."""
    ids = owl.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    losses = []
    for first in range(0, len(ids) - WINDOW + 1, WINDOW):
        window_BT = torch.tensor([ids[first : first + WINDOW]])
        with torch.no_grad():
            losses.append(float(owl.model(input_ids=window_BT, labels=window_BT, use_cache=False).loss))
    return math.exp(statistics.mean(losses))


def perplexity(owl: Owl, talks: Sequence[Conversation]) -> float:
    """Perplexity of the answers in these conversations, a token each."""
    summed, tokens = 0.0, 0
    for talk in talks:
        batch = owl.processor.batch([owl.processor.encode(talk)], side="right", labels=True)
        supervised = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            summed += float(owl.model(**batch, use_cache=False).loss) * supervised
        tokens += supervised
    return math.exp(summed / tokens)


def language(owl: Owl, base: Owl, folder: Path, count: int) -> dict[str, Any]:
    """Perplexity of the reference answers, and both models' own answers to the first `count` questions."""
    rows = [json.loads(line) for line in (folder / "question.jsonl").read_text("utf-8").splitlines()]
    questions = {row["question_id"]: row["turns"][0] for row in rows}
    lines = (folder / "reference_gpt-4.jsonl").read_text("utf-8").splitlines()
    references = {row["question_id"]: row["choices"][0]["turns"][0] for row in map(json.loads, lines)}
    asked = [Conversation((Message("user", (question,)),)) for question in questions.values()]
    known = [(one, references[number]) for one, number in zip(asked, questions, strict=True) if number in references]
    told = [one.said("assistant", answer) for one, answer in known]
    text = "\n\n".join(file.read_text("utf-8") for file in sorted((ROOT / "docs").glob("tutorial-*.md")))
    found: dict[str, Any] = {
        "plain text": [plain_perplexity(base, text), plain_perplexity(owl, text)],
        "answers in a chat": [perplexity(base, told), perplexity(owl, told)],
    }
    said = [OwlChatModel(one, 16).answers(asked[:count], Decoding(max_new_tokens=2 * MOST_WORDS)) for one in (base, owl)]
    pairs = zip(questions.values(), *said, strict=False)
    found["answers"] = [{"question": question, "base": one, "owl": other} for question, one, other in pairs]
    return found


def times(owl: Owl, count: int) -> dict[str, float]:
    """Median seconds to the first word and to the whole answer, of pictures not seen before."""
    firsts, wholes = [], []
    for index, shown in enumerate(scenes(count + 1, SCENES_SEED + 1)):
        chat, began, first = OwlChatModel(owl), time.perf_counter(), None
        for _ in chat.stream(shown_with(shown, "What is in the picture?"), Decoding(max_new_tokens=MOST_WORDS)):
            first = first or time.perf_counter() - began
        if index:  # the first answer meets every kernel for the first time
            firsts.append(first or 0.0)
            wholes.append(time.perf_counter() - began)
    return {"first word": statistics.median(firsts), "whole answer": statistics.median(wholes)}


def report(found: dict[str, Any]) -> None:
    """The figures beside their bars."""
    if "exam" in found:
        tables = found["exam"]
        with_it, without, unseen = (tables[condition.title] for condition in CONDITIONS)
        for ability in with_it:
            shares = f"{with_it[ability]:.1f} with the picture, {without[ability]:.1f} without, {unseen[ability]:.1f} unseen"
            print(f"{ability}: {shares}")
        above = with_it["overall"] - without["overall"]
        print(f"with the picture {with_it['overall']:.1f} (bar 80), {above:.1f} points above without (bar 45),")
        print(f"unseen combinations {with_it['overall'] - unseen['overall']:.1f} points lower (bar 12)")
    if "open" in found:
        for name, share in found["open"].items():
            if name != "answers":
                print(
                    f"open prompts, {name}: {share:.1f} % grounded"
                    + {"right": " (bar 70)", "exchanged": " (bar 35)"}.get(name, "")
                )
    if "language" in found:
        for name in ("plain text", "answers in a chat"):
            alone, owl = found["language"][name]
            print(f"perplexity, {name}: {alone:.3f} alone, {owl:.3f} as owl: {100 * (owl / alone - 1):+.2f} % (bar 3)")
    if "time" in found:
        print(
            f"first word {found['time']['first word']:.2f} s (bar 1.5), whole answer {found['time']['whole answer']:.2f} s (4)"
        )


def page(answers: Sequence[dict[str, str]]) -> str:
    """Both models' answers side by side, as an HTML page."""
    cells = ("question", "base", "owl")
    rows = ["".join(f"<td>{html.escape(row[cell])}</td>" for cell in cells) for row in answers]
    head = "<th>question</th><th>SmolLM2 alone</th><th>owl-smol, without a picture</th>"
    style = (
        "body{font:16px/1.5 sans-serif;max-width:80em;margin:2em auto;padding:0 1em}"
        "table{table-layout:fixed;width:100%;border-collapse:collapse}th:first-child{width:20%}"
        "td,th{border:1px solid #ccc;padding:.6em;vertical-align:top;text-align:left}"
        "td,th{white-space:pre-wrap;overflow-wrap:anywhere}"
    )
    table = "".join(f"<tr>{row}</tr>\n" for row in (head, *rows))
    return (
        '<!doctype html>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>owl-smol</title>\n<style>{style}</style>\n<table>\n{table}</table>\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/owl-smol")
    parser.add_argument("--base", help="the language model as Modules takes it; default: the wheel's, else the hub's")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--count", type=count, default=50, help="questions an ability")
    parser.add_argument("--scenes", type=count, default=25, help="scenes for each open prompt")
    parser.add_argument("--questions", type=Path, default=Path("../shared/vicuna_bench"))
    parser.add_argument("--answers", type=count, default=80, help="how many of the questions are answered by both")
    parser.add_argument("--page", type=new_file, help="an HTML file for the answers side by side")
    parser.add_argument("--out", type=new_file, help="a JSON file for all of it")
    given = parser.parse_args()
    if "language" in given.sections and not (given.questions / "question.jsonl").is_file():
        parser.error(f"--questions {given.questions}: there is no question.jsonl, which the section language asks")
    torch.set_num_threads(1)
    owl, found = load(given.model, device="cpu"), dict[str, Any]()
    print(f"{machine()}; {given.model}, {owl.model.dtype}")
    if "exam" in given.sections:
        found["exam"] = exam(owl, given.count)
    if "open" in given.sections:
        found["open"] = open_prompts(owl, given.scenes)
    if "language" in given.sections:
        found["language"] = language(owl, _base(given.base, owl.model.dtype), given.questions, given.answers)
    if "time" in given.sections:
        found["time"] = times(owl, 5)
    report(found)
    if given.page and "language" in found:
        given.page.write_text(page(found["language"]["answers"]), encoding="utf-8")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _base(language: str | None, dtype: torch.dtype) -> Owl:
    """The language model as it was, in an owl that sees nothing."""
    owl = build(replace(OWL_SMOL, language=language) if language else OWL_SMOL, (), 0)
    module: torch.nn.Module = owl.model.eval()
    module.to(dtype)
    return owl


if __name__ == "__main__":
    run(main)
