"""Files that people feed such a program (../shared/cases): each gives its conversations, or one sentence that is true."""

from pathlib import Path

import pytest

from mplug_owl.data.sources import check, read
from mplug_owl.errors import UserError

# How many conversations a file gives, and what is said of it or of its first bad record.
TEXT: dict[str, tuple[int, str]] = {
    "alpaca_images.json": (2, ""),
    "alpaca_nan_input.jsonl": (2, ""),
    "belle.jsonl": (0, "no known format has the fields 'conversation'"),
    "bom_crlf.jsonl": (2, ""),
    "bom_list.json": (1, ""),
    "bom_quoted.csv": (2, ""),
    "capital_roles.jsonl": (1, ""),
    "chat_images_empty.jsonl": (1, "line 2: 1 <image> in the text but 0 images"),
    "chat_images_without_mark.jsonl": (1, ""),
    "chat_mark_without_images.jsonl": (0, "line 1: 1 <image> in the text but 0 images"),
    "chat_mixed_content.jsonl": (2, "line 3: no picture file:///data/images/a.jpg; looked for /data/images/a.jpg"),
    "dict_of_records.json": (0, "one JSON object with '1', '2'; expected a JSON list of records"),
    "empty_values.json": (2, "record 2: no answer to learn"),
    "flickr_results.csv": (0, "line 2: no field 'image'; it has 'image_name', 'comment_number', 'comment'"),
    "huge_cell.tsv": (0, "line 2: no picture AAAA"),
    "image_marks.json": (10, "record 4: <image> inside an answer"),
    "index_column.csv": (2, ""),
    "latin1.csv": (1, "line 2: not UTF-8 text (byte 0xe9 at 9)"),
    "llava_starts_with_gpt.json": (1, ""),
    "llava_system_turn.json": (1, ""),
    "many_lines.json": (2, ""),
    "minigpt4.json": (0, "annotations without images, as MiniGPT-4 has them"),
    "mix_image_first.json": (2, ""),
    "mix_text_first.json": (3, ""),
    "nan.jsonl": (2, "line 1: field 'caption' is NaN; expected text"),
    "numbers.json": (2, ""),
    "one.jsonl": (1, ""),
    "one_base64.jsonl": (301, ""),
    "owl_no_space.jsonl": (2, "line 1: 'AI:' begins a line without a space after it"),
    "packed.jsonl.gz": (1, ""),
    "pairs.json": (0, "record 1: a list; expected an object"),
    "paths.json": (9, "record 1: no picture /data/images/a.jpg; looked for /data/images/a.jpg"),
    "png_meta.json": (2, "record 2: no picture ../pics/exif_chunk_garbage.png"),
    "pretty.jsonl": (0, "one JSON object with 'image', 'text', 'task_type'; expected a JSON list of records"),
    "question_marks.csv": (2, ""),
    "question_numbers.jsonl": (3, ""),
    "quotes.tsv": (13, ""),
    "semicolon.csv": (1, ""),
    "sharegpt_starts_with_gpt.json": (1, ""),
    "sharegpt_two_humans.json": (1, ""),
    "spaces.csv": (1, ""),
    "surrogates.jsonl": (1, "line 2: half a character"),
    "swift.jsonl": (1, ""),
    "system_field.json": (1, ""),
    "tools.jsonl": (0, "line 1, conversations[1]: from 'function_call'; expected human or gpt"),
    "trailing_comma.json": (0, "line 3: not JSON"),
    "upper.csv": (0, "line 2: no field 'image'; it has 'Image', 'Caption'"),
    "utf16.csv": (0, "UTF-16 text; save it as UTF-8"),
    "utf16.json": (0, "UTF-16 text; save it as UTF-8"),
}


@pytest.fixture
def cases(shared: Path) -> Path:
    if not (folder := shared / "cases" / "text").is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def outcome(path: Path) -> tuple[int, list[str]]:
    """How many conversations a file gives, and all that is said of it."""
    try:
        source = read(str(path))
    except UserError as error:
        return 0, [str(error)]
    problems = check(source)
    return len(source) - len(problems), problems


@pytest.mark.parametrize("name", TEXT)
def test_a_case(cases: Path, name: str) -> None:
    expected, complaint = TEXT[name]
    readable, problems = outcome(cases / name)
    assert readable == expected
    assert bool(problems) == bool(complaint)
    assert complaint in "".join(problems[:1])
    assert all(len(problem.splitlines()) == 1 for problem in problems)


def test_every_case_is_here(cases: Path) -> None:
    assert {path.name for path in cases.iterdir() if path.is_file()} == TEXT.keys()


def test_what_the_cases_say(cases: Path) -> None:
    """The ones that were read wrongly in silence, word by word."""

    def answers(name: str) -> list[str]:
        source = read(str(cases / name))
        return [source[index].answers[-1] for index in range(len(source))]

    assert answers("quotes.tsv")[3] == '"Sunset over the bay'
    assert answers("quotes.tsv")[9] == 'the 12" record'
    assert answers("llava_starts_with_gpt.json") == ["Red."]
    assert answers("question_numbers.jsonl") == ["1", "false", "blue"]
    assert read(str(cases / "system_field.json"))[0].system == "You are terse."
    for name in ("alpaca_images.json", "chat_images_without_mark.jsonl", "swift.jsonl", "mix_image_first.json"):
        talk = read(str(cases / name))[0]
        assert len(talk.pictures) == 1
        assert "<image>" not in "".join(message.text for message in talk.messages)
