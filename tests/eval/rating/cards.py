"""A made-up OwlEval: four drawn cards, a question and a second one about each, and what two systems answered."""

import json
from pathlib import Path

from PIL import Image

from mplug_owl.eval.exam_folder import Exam, read_exam

# Names that are nowhere else on a page.
SYSTEMS = ("zebrafish-7b", "quokka-13b")
CARDS = 4


def write(folder: Path) -> list[str]:
    """The exam's folder, and a file of answers of each system. Returns the files."""
    (folder / "cases").mkdir(parents=True)
    rows, files = [], []
    for card in range(CARDS):
        size = ((64, 48), (40, 300), (300, 30), (48, 48))[card % 4]
        Image.new("RGB", size, (card * 50, 90, 120)).save(folder / "cases" / f"{card}.png")
        for second in (False, True):
            rows.append(
                {
                    "image": f"{card}.png",
                    "question_id": 2 * card + second,
                    "question": f"What is {'under' if second else 'on'} card {card}?",
                    "ability": "b,f" if second else "b",
                    "category": ["multi_turn"] if second else ["single_turn", "multi_turn"],
                }
            )
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for system in SYSTEMS:
        file = folder / f"{system}.jsonl"
        answers = [{**row, "answer": answer(system, row["question_id"]), "model_id": system} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in answers))
        files.append(str(file))
    return files


def answer(system: str, question: int) -> str:
    """The first system is silent once; the second one types markup."""
    if system == SYSTEMS[0] and question == 5:
        return ""
    return f"Reply {question}\nof {'the one' if system == SYSTEMS[0] else '<b>other</b> & <script>alert(1)</script>'}."


def exam(folder: Path) -> Exam:
    """The same as one exam."""
    return read_exam(write(folder), data=folder)
