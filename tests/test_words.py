"""One word, one meaning: the field's own terms stand in src, and the words they replaced do not come back."""

import io
import re
import tokenize
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(path for path in SRC.rglob("*.py") if ".egg-info" not in str(path))
# An old name, what it is called now, and the rooms where the old name meant that: everywhere, unless said.
RENAMED: dict[str, tuple[str, str]] = {
    "Learners": ("Trainable", ""),
    "learners": ("trainable", ""),
    "Freedom": ("Tuning", ""),
    "freedom": ("tuning", ""),
    "learned_rows_only": ("supervised_only", ""),
    "learned": ("supervised, or trainable where parameters are counted", ""),
    "Encoded": ("Example", ""),
    "Place": ("Location", ""),
    "place": ("location, index or position", ""),
    "places": ("locations or positions", ""),
    "Aside": ("BadSample", ""),
    "aside": ("quarantine", ""),
    "Watch": ("LossGuard", ""),
    "compute_again": ("checkpoint_activations", ""),
    "kept_bytes": ("activation_bytes", ""),
    "settle": ("resolve_batch_size", ""),
    "Steps": ("StepDataset", ""),
    "StepData": ("StepBatches", ""),
    "prefetched": ("step_loader", ""),
    "cropped": ("crop_box", ""),
    "Sitting": ("Condition", ""),
    "Problem": ("Question", ""),
    "Answered": ("Answer", ""),
    "examine": ("evaluate", ""),
    "OwlModelOutput": ("MplugOwlModelOutputWithPast", ""),
    "OwlOutput": ("MplugOwlCausalLMOutputWithPast", ""),
    "Stopped": ("Interrupted", ""),
    "Unwritten": ("WriteError", ""),
    "Lines": ("JsonLines", ""),
    "grace": ("grace_seconds", ""),
    "silence_seconds": ("process_timeout", ""),
    "own": ("config", ""),
    "together": ("joined_processes", ""),
    "decided": ("from_main", ""),
    "spread": ("distribute_model", "train"),
    "level": ("equalise_passes", "train"),
    "whole": ("full_tensor", "train"),
    "look": ("encode_images", "model"),
    "asked": ("with_caption_prompt", "data/augment.py"),
    "right": ("target", "eval"),
    "said": ("answer", "eval"),
    "told": ("description", "eval"),
}
# Where an old name stays, and why.
STAYS = {
    ("place", "scenes"): "a ninth of a drawn picture",
    ("places", "scenes"): "the ninths of a drawn picture",
    ("own", "model/connectors.py"): "saved weights have this name",
    ("said", "eval/answer.py"): "Conversation.said adds a message",
}
# In what people read: an old word, and the usual one.
READ = {"behind": "after", "goes on": "resumes", "going on": "resuming", "go on": "resume", "told": "reported"}
# Where an old word is plain English: a symbolic link, a description in words, a title of a column in old exams.
PLAIN = re.compile(r"behind links|told in words|told apart")


def names(path: Path) -> list[tuple[int, str]]:
    """Every identifier of a file with its line."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.NAME]


def texts(path: Path) -> list[tuple[int, str]]:
    """Every string and comment of a file with its line."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
    return [(token.start[0], token.string) for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT)]


def room_of(path: Path) -> str:
    """`eval/answer.py` of src/mplug_owl/eval/answer.py."""
    return str(path.relative_to(SRC).relative_to("mplug_owl") if "mplug_owl" in path.parts else path.relative_to(SRC))


@pytest.mark.parametrize("path", FILES, ids=room_of)
def test_no_old_name_is_left(path: Path) -> None:
    here = {old for old, (_, room) in RENAMED.items() if room_of(path).startswith(room)}
    here -= {old for (old, room) in STAYS if room_of(path).startswith(room)}
    assert [f"line {line}: {name} is now {RENAMED[name][0]}" for line, name in names(path) if name in here] == []


@pytest.mark.parametrize("path", [path for path in FILES if "scenes" not in path.parts], ids=room_of)
def test_people_read_the_usual_words(path: Path) -> None:
    found = [
        f"line {line}: {old!r} where {new!r} is meant"
        for line, text in texts(path)
        for old, new in READ.items()
        if re.search(rf"\b{old}\b", PLAIN.sub("", text))
    ]
    assert found == []
