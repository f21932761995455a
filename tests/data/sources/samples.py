"""One small record or two of every format, for the tests of the sources."""

from typing import Any

from mplug_owl import Message
from mplug_owl.conversation import SYSTEM_PROMPT


def said(*turns: tuple[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(role, parts if isinstance(parts, tuple) else (parts,)) for role, parts in turns)


def broken(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A record with fields changed, or left out where the change is None."""
    return {key: value for key, value in {**record, **changes}.items() if value is not None}


CAPTIONS = [{"image": "cat.png", "caption": "a cat"}, {"image": "dog.png", "caption": "a dog, seated"}]


LLAVA = [
    {
        "id": "1",
        "image": "cat.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}],
    },
    {"id": "2", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]},
]


OWL = [
    {
        "image": ["cat.png"],
        "text": f"{SYSTEM_PROMPT}\nHuman: <image>\nHuman: What is it?\nAI: A cat.",
        "task_type": "llava_sft",
    },
    {"text": "Human: Hello\nAI: Hello!"},
]


CHAT = [
    {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": "A cat."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]},
        ]
    },
]


SHAREGPT = [
    {"id": "a_0", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]},
    {
        "id": "a_1",
        "conversations": [
            {"from": "gpt", "value": "an answer to what is in part 0"},
            {"from": "human", "value": "What does <image> mean in HTML?"},
            {"from": "gpt", "value": "Nothing; it is <img>."},
        ],
    },
]


ALPACA = [
    {"instruction": "Give three tips for staying healthy.", "input": "", "output": "Eat, sleep, walk."},
    {"instruction": "Classify the animal.", "input": "Owl", "output": "A bird."},
]


OPENING = "The conversation between human and AI assistant.\n"


BAIZE = [
    {
        "topic": "a",
        "input": f"{OPENING}[|Human|] Hello\n[|AI|] Hello!\nHow are you?\n[|Human|] Well.\n[|AI|] Good.\n[|Human|] ",
    },
    {"topic": "b", "input": f"{OPENING}[|Human|] What is [|AI|] in a line?\n[|AI|] A mark."},
]


TEXT = [{"text": "One document."}, {"text": "Another."}]


RECORDS = {
    "captions": CAPTIONS,
    "llava": LLAVA,
    "owl": OWL,
    "chat": CHAT,
    "text": TEXT,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA,
    "baize": BAIZE,
}


SWIFT = [
    {"query": "<image>What is it?", "response": "A cat.", "images": ["cat.png"]},
    {"query": "And now?", "response": "A dog.", "history": [["What is it?", "A cat."]], "system": "Be brief."},
]
CAULDRON = [
    {"images": ["cat.png"], "texts": [{"user": "What is it?", "assistant": "A cat.", "source": "a"}]},
    {
        "images": ["cat.png", "dog.png"],
        "texts": [{"user": "Which?", "assistant": "Both."}, {"user": "Why?", "assistant": "So."}],
    },
]
QUESTIONS = [
    {"image": "cat.png", "question": "What is it?", "answer": "A cat."},
    {"image": "dog.png", "question": "How many?", "answer": 1},
]
RECORDS |= {"swift": SWIFT, "cauldron": CAULDRON, "questions": QUESTIONS}
MESSAGE = {"role": "user", "content": "hi"}
