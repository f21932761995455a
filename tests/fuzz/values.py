"""Odd values from a seed: bytes, pictures, names, words, JSON, and records with some of them."""

import base64
import io
import json
import struct
from random import Random
from typing import Any

from PIL import Image


def _png() -> bytes:
    Image.new("RGB", (9, 7)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


GOOD = _png()
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 0x0112, 3, 1, 6, 0x0131, 2, 40, 60_000) + bytes(4)
# What people, programs and attackers call a picture's file.
NAMES = (
    *("owl.png", "./owl.png", "images/../owl.png", "owl", "OWL.PNG", "owl.png ", "\towl.png", "owl.png\n", "x/owl.png"),
    *("file://owl.png", "http://127.0.0.1:9/owl.png", "s3://owl/owl.png", "data:", "data:,owl", "data:image/png;base64,"),
    *("~", "~/owl.png", "~nobody/owl.png", "~\0", "\0", "owl\0.png", "o" * 300, "o/" * 3_000, "\ud800.png", "日本.png"),
    *("C:\\owl.png", "..\\owl.png", "::", "a:b", "%00", "\x1b[31mowl", "\u202egnp.png", "nan", "None", "owl.png#skip-broken"),
    *("", " ", ".", "*", "{0..9}.png", "[a", "?", "#", "{"),
)
# What makes up words: marks, characters and lengths that trip readers.
TEXTS = (
    *(
        "an owl",
        "Is it an owl?",
        "é",
        "🦉",
        "a" * 3_000,
        "\n",
        "\r\n",
        "\t",
        " ",
        "\0",
        "\x1b[2J",
        "\ud800",
        "\ufeff",
        "\u202e",
    ),
    *("<image>", "<IMAGE>", "<image>\n", "<video>", "<audio>", "<|im_end|>", "</s>", "<s>", "Human: ", "AI: ", "\nAI: yes"),
    *("[|AI|]", "[|Human|] owl\n[|AI|] yes", "{{x}}", "{", "[", '"', "'", ",", "%s", "\\", "null", "NaN", "0"),
)
_TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "An owl."}]
_PARTS = [{"type": "image", "image": "owl.png"}, {"type": "text", "text": "What is it?"}]
_MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": _PARTS},
    {"role": "assistant", "content": "An owl."},
]
RECORDS: dict[str, Any] = {
    "captions": {"image": "owl.png", "caption": "an owl"},
    "questions": {
        "image": "owl.png",
        "question": "What is it?",
        "answer": "An owl.",
        "A": "an owl",
        "B": "a cat",
        "hint": "It flies.",
    },
    "llava": {"id": "1", "image": "owl.png", "conversations": _TURNS},
    "chat": {"messages": _MESSAGES, "images": None},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]},
    "alpaca": {
        "instruction": "Name a bird.",
        "input": "grey",
        "output": "An owl.",
        "system": "Be kind.",
        "history": [["Hello", "Hello!"]],
    },
    "swift": {"query": "<image>What is it?", "response": "An owl.", "images": ["owl.png"], "history": []},
    "cauldron": {"images": ["owl.png"], "texts": [{"user": "What is it?", "assistant": "An owl.", "source": "owls"}]},
    "baize": {"input": "Talk.\n[|Human|] Hello\n[|AI|] Hello!\n[|Human|] "},
    "owl": {"image": ["owl.png"], "text": "Human: <image>\nHuman: What is it?\nAI: An owl."},
    "text": {"text": "An owl is a bird."},
}
COCO = {
    "info": {},
    "images": [{"id": number, "file_name": "owl.png"} for number in range(3)],
    "annotations": [{"image_id": number, "id": number, "caption": "an owl"} for number in range(3)],
}
_OTHERS = {"video", "audio", "captions", "answers", "label", "from", "value", "role", "content", "type", "url", "file_name"}
FIELDS = sorted(_OTHERS | {name for record in RECORDS.values() for name in record})


def odd_bytes(random: Random, raw: bytes) -> bytes:
    """Bytes as they were, cut, flipped, with a number that lies, or with a stretch put in."""
    damaged = bytearray(raw)
    how = random.randrange(6)
    at = random.randrange(len(damaged)) if damaged else 0
    if how == 0:
        del damaged[at:]
    elif how == 1 and damaged:
        for _ in range(random.choice((1, 1, 2, 9))):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    elif how == 2:
        lie = random.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, random.getrandbits(32)))
        damaged[at : at + 4] = struct.pack(">I", lie)
    elif how == 3:
        damaged[at:at] = random.choice((b"\0", b"\xff" * 9, bytes(600), random.randbytes(30), bytes(damaged[:40])))
    return bytes(damaged)


def odd_picture(random: Random) -> bytes:
    """A picture's file of any format and mode, often damaged."""
    kind = random.choice(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "MPO", "SGI", "TGA", "ICO"))
    mode = random.choice(("RGB", "RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"))
    image = Image.new(mode, (random.choice((1, 2, 17, 40, 300)), random.choice((1, 3, 30))), random.randrange(2))
    options: dict[str, Any] = {"exif": odd_bytes(random, EXIF)} if random.random() < 0.4 else {}
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except Exception:  # not every format has every mode, nor EXIF that is damaged
        Image.new("RGB", (9, 7)).save(file, "PNG")
    return file.getvalue() if random.random() < 0.3 else odd_bytes(random, file.getvalue())


def odd_name(random: Random) -> str:
    """What people, programs and attackers call a file."""
    if random.random() < 0.2:
        return base64.b64encode(odd_picture(random)).decode()
    if random.random() < 0.1:
        return f"data:image/{random.choice(('png', '', 'x;y'))};base64," + base64.b64encode(odd_picture(random)).decode()
    return random.choice(NAMES)


def odd_text(random: Random) -> str:
    """Words, marks and characters that trip readers."""
    return "".join(random.choice(TEXTS) for _ in range(random.choice((0, 1, 1, 2, 5))))


def odd_value(random: Random, depth: int = 0) -> Any:
    """A JSON value of any kind."""
    if depth < 3 and random.random() < 0.3:
        values = [odd_value(random, depth + 1) for _ in range(random.randrange(3))]
        return values if random.random() < 0.5 else {odd_text(random)[:20]: value for value in values}
    if random.random() < 0.02:
        deep: Any = 0
        for _ in range(random.choice((30, 300))):
            deep = [deep]
        return deep
    return random.choice(
        (None, True, False, 0, -1, 2**70, 10**400, 0.5, 1e308, float("nan"), float("inf"), odd_text(random), odd_name(random))
    )


def odd_record(random: Random, record: Any) -> Any:
    """A record with one or several of its values, names or elements changed."""
    whole = [json.loads(json.dumps(record))]
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        node: Any = whole
        key: Any = 0
        while isinstance(node[key], (dict, list)) and node[key] and random.random() < 0.8:
            node = node[key]
            key = random.choice(list(node)) if isinstance(node, dict) else random.randrange(len(node))
        how = random.randrange(6)
        if how == 0 and node is not whole:
            del node[key]
        elif how == 1 and isinstance(node, dict):
            node[random.choice(FIELDS) if random.random() < 0.8 else odd_text(random)] = node.pop(key)
        elif how == 2 and isinstance(node, dict):
            node[random.choice(FIELDS)] = odd_value(random)
        elif how == 3 and isinstance(node, list) and node is not whole:
            node.insert(key, random.choice((node[key], odd_value(random))))
        elif how == 4:
            node[key] = [node[key]]
        else:
            node[key] = odd_value(random)
    return whole[0]
