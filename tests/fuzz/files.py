"""Files of odd records: each function writes one, and says how it is opened and how many records it has, where that is sure."""

import base64
import csv
import decimal
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mplug_owl.data.sources import FORMATS
from tests.fuzz.values import COCO, FIELDS, GOOD, RECORDS, odd_bytes, odd_name, odd_picture, odd_record, odd_text, odd_value

# Records in one file.
TOGETHER = 20


# How a file is opened, and how many records it has.
Made = tuple[str, int | None]


def _written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _lines(folder: Path, records: list[Any]) -> Path:
    return _written(folder, "a.jsonl", "\n".join(map(json.dumps, records)).encode())


def _opened(random: Random, path: Path, *formats: str) -> str:
    """A file under the name of one of these formats, or by what is in it."""
    return random.choice((f"{random.choice(formats)}:{path}", f"{random.choice(formats)}:{path}", str(path)))


def json_records(random: Random, folder: Path) -> Made:
    """Records of every layout, in a JSON list or JSON lines, some of them with damaged bytes."""
    _written(folder, "owl.png", GOOD)
    name = random.choice(list(RECORDS))
    layouts = random.choices([name, *RECORDS], [20, *[1] * len(RECORDS)], k=TOGETHER)
    records = [odd_record(random, RECORDS[layout]) for layout in layouts]
    formats = (name, name, name, "text", random.choice(list(RECORDS)))
    if random.random() < 0.5:
        raw = json.dumps(records, indent=random.choice((None, 1))).encode()
        return _opened(random, _written(folder, "a.json", raw), *formats), TOGETHER
    lines = [json.dumps(record).encode() for record in records]
    lines = [odd_bytes(random, line).replace(b"\n", b" ") if random.random() < 0.1 else line for line in lines]
    path = _written(folder, "a.jsonl", b"\n".join(lines))
    return _opened(random, path, *formats), sum(bool(line.strip()) for line in lines)


def json_files(random: Random, folder: Path) -> Made:
    """JSON that is damaged as a whole: lists, COCO's annotations, records over several lines."""
    _written(folder, "owl.png", GOOD)
    whole = random.choice((odd_record(random, COCO), [odd_record(random, one) for one in RECORDS.values()], odd_value(random)))
    raw = json.dumps(whole, indent=random.choice((None, 2))).encode(random.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig")))
    path = _written(folder, random.choice(("a.json", "a.jsonl", "captions_val2017.json", "a")), odd_bytes(random, raw))
    return _opened(random, path, "coco", "llava", "captions", "owleval"), None


def tables(random: Random, folder: Path) -> Made:
    """CSV and TSV with odd cells, quotes, rows and columns."""
    _written(folder, "owl.png", GOOD)
    ending, comma = random.choice((("csv", ","), ("tsv", "\t")))
    paper = io.StringIO(newline="")
    rows = csv.writer(paper, delimiter=comma, quoting=random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    columns = random.choice(
        (["image", "caption"], ["image", "question", "answer"], ["image", "text", "text"], [odd_text(random), ""])
    )
    rows.writerow(columns)
    for _ in range(TOGETHER):
        cells = [random.choice(("owl.png", odd_text(random), odd_name(random)[:300])) for _ in columns]
        rows.writerow(cells[: random.choice((9, 9, 9, 1))])
    raw = paper.getvalue().encode("utf-8", "surrogatepass")
    path = _written(folder, f"a.{ending}", odd_bytes(random, raw) if random.random() < 0.3 else raw)
    return _opened(random, path, "captions", "questions"), None


def pictures(random: Random, folder: Path) -> Made:
    """Pictures of every format and damage, by path and in base64."""
    records = []
    for number in range(TOGETHER):
        raw = odd_picture(random)
        name = f"{number}.{random.choice(('png', 'jpg', 'JPEG', 'tar'))}"
        _written(folder, name, raw)
        records.append({"image": random.choice((name, name, base64.b64encode(raw).decode())), "caption": "an owl"})
    return f"captions:{_lines(folder, records)}", TOGETHER


def names(random: Random, folder: Path) -> Made:
    """Pictures under odd names."""
    _written(folder, "owl.png", GOOD)
    records = [{"image": odd_name(random), "caption": "an owl"} for _ in range(TOGETHER)]
    return f"captions:{_lines(folder, records)}", TOGETHER


def folders(random: Random, folder: Path) -> Made:
    """A folder of pictures whose names and words are odd."""
    for number in range(TOGETHER):
        stem = (
            random.choice((b"owl", b"\xff\xfe", b"o.w.l", "日本é".encode(), b"o" * 200, b" ", b"~owl")) + str(number).encode()
        )
        picture, words = random.choice((".png", ".JPG", ".avif")), random.choice((".txt", ".txt", ".caption"))
        _written(folder, os.fsdecode(stem) + picture, odd_picture(random))
        _written(folder, os.fsdecode(stem) + words, odd_bytes(random, odd_text(random).encode("utf-8", "replace")))
    if random.random() < 0.2:
        _written(folder, "metadata.jsonl", odd_bytes(random, b'{"file_name": "owl0.png", "text": "owl"}\n' * 4))
        return f"folder:{folder}", None
    return f"folder:{folder}", TOGETHER


def shards(random: Random, folder: Path) -> Made:
    """Tar files of odd members, some damaged as a whole."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for number in range(TOGETHER):
            stem = random.choice((f"{number}", "a", f"b/{number}.x", f"o{'w' * 200}{number}", f"é{number}", f"\udcff{number}"))
            for ending in random.sample(("jpg", "png", "txt", "json", "TXT", "cls", ""), random.choice((1, 2, 2, 3))):
                words = random.choice((odd_text(random), json.dumps(odd_record(random, {"caption": "owl"}))))
                raw = odd_picture(random) if ending in ("jpg", "png") else odd_bytes(random, words.encode("utf-8", "replace"))
                about = tarfile.TarInfo(f"{stem}.{ending}")
                about.size, about.type = len(raw), random.choice((*[tarfile.REGTYPE] * 30, tarfile.SYMTYPE, tarfile.DIRTYPE))
                about.size *= about.type == tarfile.REGTYPE
                tar.addfile(about, io.BytesIO(raw))
    raw = file.getvalue()
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        raw = odd_bytes(random, raw)
    return f"webdataset:{_written(folder, '0.tar', raw)}{random.choice(('', '#skip-broken'))}", None


def parquets(random: Random, folder: Path) -> Made:
    """Parquet whose columns are of every type, some damaged as a whole."""
    kinds: list[Callable[[], Any]] = [
        lambda: pa.array([odd_text(random).encode("utf-8", "replace").decode() for _ in range(TOGETHER)]),
        lambda: pa.array([odd_picture(random) for _ in range(TOGETHER)]),
        lambda: pa.array([random.choice(({"bytes": odd_picture(random), "path": "a"}, None)) for _ in range(TOGETHER)]),
        lambda: pa.array([[odd_picture(random)] * random.randrange(3) for _ in range(TOGETHER)]),
        lambda: pa.array([[{"from": "human", "value": "<image>owl"}, {"from": "gpt", "value": "yes"}]] * TOGETHER),
        lambda: pa.array([random.choice((random.getrandbits(30), None)) for _ in range(TOGETHER)]),
        lambda: pa.array([decimal.Decimal("1.20")] * TOGETHER),
        lambda: pa.array([random.getrandbits(31) for _ in range(TOGETHER)], pa.int32()).cast(pa.date32()),
        lambda: pa.array([random.getrandbits(62) for _ in range(TOGETHER)], pa.duration("s")),
        lambda: pa.array([[("a", 1)]] * TOGETHER, pa.map_(pa.string(), pa.int32())),
        lambda: pa.nulls(TOGETHER),
    ]
    columns = {random.choice(FIELDS): random.choice(kinds)() for _ in range(random.randrange(1, 5))}
    columns |= {"image": kinds[random.choice((0, 1, 1, 2, 3))](), "caption": random.choice((kinds[0], random.choice(kinds)))()}
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=random.choice((3, 100)))
    if random.random() < 0.4:
        _written(folder, "a.parquet", odd_bytes(random, (folder / "a.parquet").read_bytes()))
        return f"captions:{folder}/a.parquet", None
    return random.choice((f"captions:{folder}/a.parquet", f"{folder}/a.parquet")), TOGETHER


def texts(random: Random, folder: Path) -> Made:
    """Documents of odd bytes."""
    blocks = b"\n\n".join(odd_text(random).encode("utf-8", "replace") for _ in range(TOGETHER))
    return f"text:{_written(folder, 'a.txt', odd_bytes(random, blocks + b'owl'))}", None


def specs(random: Random, folder: Path) -> Made:
    """What somebody may type where data is asked for, no network's addresses among it."""
    names = (odd_name(random)[:400], odd_text(random)[:100], str(folder), f"{folder}/{{0..{odd_text(random)[:9]}}}.tar")
    name = random.choice(names)
    name = "owl" if "//" in name or name.strip() in (".", "~") else name
    return random.choice((name, f"{random.choice(list(FORMATS))}:{name}", f"{name}#skip-broken")), None


KINDS: dict[str, Callable[[Random, Path], Made]] = {
    kind.__name__: kind for kind in (json_records, json_files, tables, pictures, names, folders, shards, parquets, texts, specs)
}
