"""A folder like OwlEval's, made up: four questions about two pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

QUESTIONS = [
    {"image": "1.jpg", "question_id": 1, "question": "What is this?", "ability": "a,b", "category": ["single_turn"]},
    {
        "image": "2.png",
        "question_id": 2,
        "question": "Where is it?",
        "ability": "a,b",
        "category": ["single_turn", "multi_turn"],
    },
    {"image": "2.png", "question_id": 3, "question": "Whose?", "ability": "a,d", "category": ["multi_turn"]},
    {"image": "2.png", "question_id": 4, "question": "Why?", "ability": "a,e,f", "category": ["multi_turn"]},
]


def folder_of(folder: Path, questions: Sequence[dict] = QUESTIONS) -> Path:
    """The folder, its second picture with another ending than the questions say."""
    (folder / "cases").mkdir(exist_ok=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    for name, colour in (("1", (200, 30, 30)), ("2", (30, 30, 200))):
        Image.new("RGB", (40, 30), colour).save(folder / "cases" / f"{name}.jpg")
    return folder
