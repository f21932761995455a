"""The command `owl`: every verb, what it says of mistakes, and a whole story typed line by line."""

import io
import json
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

import mplug_owl_cli
from mplug_owl import recipes
from mplug_owl.data.sources.registry import FORMATS
from mplug_owl.eval import during
from mplug_owl.recipes import tiny
from mplug_owl_cli.recipes import names as listed
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor
from tests.world import write

VERBS = (
    "demo",
    "chat",
    "serve",
    "answer",
    "train",
    "plan",
    "inspect",
    "index",
    "eval",
    "convert",
    "rate",
    "judge",
    "report",
    "recipes",
    "ablate",
)


@pytest.fixture
def owl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Type a command in an empty folder: its exit code, what it printed, what it said on the error channel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def typed(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["owl", *words])
        with pytest.raises(SystemExit) as left:
            mplug_owl_cli.main()
        shown = capfd.readouterr()
        return int(left.value.code or 0), shown.out, shown.err

    return typed


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write(tmp_path / "data", 8, seed=2)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    model = tiny_owl(tiny_config())
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    return folder


# Help


def test_help_comes_at_once_and_without_torch() -> None:
    program = (
        "import sys, time; began = time.process_time(); import mplug_owl_cli; sys.argv = ['owl', '--help']\n"
        "try:\n    mplug_owl_cli.main()\n"
        "except SystemExit:\n    pass\n"
        "print('SECONDS', time.process_time() - began, 'torch' in sys.modules, 'mplug_owl' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(f" {verb} " in shown for verb in VERBS)
    *_, (seconds, torch, package) = [line.split()[1:] for line in shown.splitlines() if line.startswith("SECONDS")]
    assert float(seconds) < 1
    assert (torch, package) == ("False", "False")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(owl, verb: str) -> None:
    code, out, _ = owl(verb, "--help")
    assert code == 0
    assert f"Usage: owl {verb}" in out


@pytest.mark.parametrize("words", [("-h",), ("chat", "-h")])
def test_help_has_its_short_name(owl, words: tuple[str, ...]) -> None:
    code, out, _ = owl(*words)
    assert code == 0
    assert "Usage: owl" in out


def test_what_may_come_several_times_is_shown_so_once(owl) -> None:
    shown = [owl(verb, "--help")[1] for verb in ("plan", "index", "serve", "rate", "judge", "report")]
    assert [line.count("...") for out in shown for line in out.splitlines() if "Usage: owl" in line] == [1] * 6


def test_these_are_all_the_verbs() -> None:
    assert {command.name or command.callback.__name__ for command in mplug_owl_cli.app.registered_commands} == set(VERBS)


def test_recipes_are_listed(owl) -> None:
    code, out, _ = owl("recipes")
    assert code == 0
    assert "paper.pretrain " in out
    assert "tiny.instruct " in out


def test_formats_are_listed(owl) -> None:
    code, out, _ = owl("inspect", "--formats")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(FORMATS)


def test_recipes_are_read_from_their_source_as_they_are() -> None:
    assert listed() == recipes.names()


@pytest.mark.parametrize("words", [("recipes",), ("train", "--help"), ("--version",)], ids=" ".join)
def test_what_needs_no_torch_is_quick(words: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "mplug_owl_cli", *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5  # CPU seconds; measured 0.4


def test_the_version_is_the_packages(owl) -> None:
    assert owl("--version") == (0, f"owl {version('mplug-owl')}\n", "")


def test_the_package_is_the_command_too() -> None:
    shown = subprocess.run([sys.executable, "-m", "mplug_owl", "--help"], capture_output=True, text=True, check=True).stdout
    assert "Usage: owl" in shown


# Mistakes: one clear line, code 2, no traceback


LINES = {
    "broken.jsonl": '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n\n{"a"\n',
    "listed.json": '[\n {"image": "a.png", "caption": "a"},\n {"image" "b.png"}\n]',
    "silent.jsonl": '{"messages": [{"role": "user", "content": "Hello?"}]}\n',
    "crowded.jsonl": '{"text": "Human: <image><image>\\nAI: two", "image": ["a.png"]}\n',
    "lost.jsonl": '{"image": "absent.png", "caption": "a"}\n',
    "odd.jsonl": '{"image": "notes.png", "caption": "a"}\n',
    "empty.jsonl": "",
}
MISTAKES = {
    "unknown recipe": (
        ["train", "tiny.pretrian"],
        "no recipe 'tiny.pretrian', perhaps tiny.pretrain; there are tiny.lookups, ",
    ),
    "unknown field": (["train", "tiny.pretrain", "--set", "stepz=3"], "Recipe has no field 'stepz'; it has name, modules"),
    "wrong type": (["train", "tiny.pretrain", "--set", "steps=few"], "--set steps=few: Input should be a valid integer"),
    "modules that are not built": (
        ["plan", "tiny.pretrain", "--from", "owl-tiny", "--set", "modules.vocabulary=500"],
        "--set modules.vocabulary=500: the run starts from owl-tiny and its modules; --set init_from=none builds",
    ),
    "no data": (["train", "paper.pretrain"], "no data: give --data FORMAT:PATH[@WEIGHT]"),
    "no file": (["train", "tiny.pretrain", "--data", "captions:none.jsonl"], "none.jsonl: no such file"),
    "no format": (["train", "tiny.pretrain", "--data", "capshuns:broken.jsonl"], "no format is called 'capshuns'"),
    "an empty file": (["train", "tiny.pretrain", "--data", "captions:empty.jsonl"], "the file is empty (0 bytes)"),
    "one weight of two": (
        ["train", "tiny.pretrain", "--data", "chat:silent.jsonl@2", "--data", "chat:silent.jsonl"],
        "chat:silent.jsonl: has no @WEIGHT but others have",
    ),
    "no JSON lines": (["train", "tiny.pretrain", "--data", "chat:broken.jsonl"], "broken.jsonl, line 3: not JSON"),
    "no JSON list": (["inspect", "captions:listed.json"], "listed.json, line 3: not JSON"),
    "no answer": (["train", "tiny.pretrain", "--data", "chat:silent.jsonl"], "silent.jsonl, line 1: no answer to learn"),
    "too few pictures": (["train", "tiny.pretrain", "--data", "owl:crowded.jsonl"], "2 <image> in the text but 1 images"),
    "no picture there": (
        ["train", "tiny.pretrain", "--data", "captions:lost.jsonl"],
        "lost.jsonl, line 1: no picture absent.png",
    ),
    "not a picture": (["train", "tiny.pretrain", "--data", "captions:odd.jsonl"], "notes.png"),
    "no model": (["chat", "runs/none/here", "Hello?"], "runs/none/here: no such folder; expected an owl's folder"),
    "an empty run": (["chat", "empty_run", "Hello?"], "empty_run: no config.json in it or in empty_run/model"),
    "another model": (["chat", "other", "Hello?"], "config.json says model_type 'llama'; expected 'mplug-owl'"),
    "a start that is none": (
        ["train", "tiny.pretrain", "--data", "captions:fine.jsonl", "--from", "runs/none/here"],
        "runs/none/here",
    ),
    "a variable that is not set": (
        ["train", "tiny.pretrain", "--from", ""],
        "owl: --from: an empty word follows; is a",
    ),
    "an option without a value": (["train", "tiny.pretrain", "--out="], "owl: --out=: an empty word follows"),
    "a plan for none": (["plan", "paper.pretrian"], "no recipe 'paper.pretrian'"),
    "a plan from none": (["plan", "paper.instruct", "--from", "runs/none/here"], "runs/none/here: no such folder"),
    "nothing to convert": (["convert", "empty_run", "out"], "empty_run: no config.json"),
    "another to convert": (["convert", "other", "out"], "config.json says model_type 'llama'"),
    "no source to inspect": (["inspect"], "no data is named; expected FORMAT:PATH, or --formats"),
    "nothing to inspect": (["inspect", "none.jsonl"], "none.jsonl: no such file"),
    "a rank of no LoRA": (
        ["train", "tiny.pretrain", "--set", "lora.rank=16"],
        "--set lora.rank=16: nothing learns by LoRA here",
    ),
    "a plan of none": (["plan", "tiny.pretrain", "--set", "lora.rank=16"], "--set lora.rank=16: nothing learns by LoRA here"),
    "a model to inspect": (["inspect", "owl-tiny"], "owl-tiny: no such file or folder; data are named FORMAT:PATH"),
    "an unknown task": (["eval", "other", "sceens"], "no task 'sceens'; there is scenes"),
    "no model to examine": (["eval", "runs/none/here", "scenes"], "runs/none/here: no such folder"),
    "a task that people grade": (
        ["train", "tiny.pretrain", "--eval-every", "2", "--eval-task", "owleval"],
        "--eval-task owleval: people or a judge grade it afterwards; expected scenes, or FORMAT:PATH",
    ),
    "a task that is never asked": (["train", "tiny.pretrain", "--eval-task", "scenes"], "give --eval-every too"),
    "pictures for what draws them": (["eval", "owl-tiny", "scenes", "--data", "other"], "scenes: draws its own pictures"),
    "keys for an open door": (["serve", "owl-tiny", "--no-auth", "--keys", "keys.txt"], "give one of them"),
    "an audit's size and no audit": (["judge", "owl-tiny", "other", "--sample", "5"], "give --audit too"),
    "experts to talk with": (["chat", "experts:mm-react", "Hello?"], "experts:mm-react: takes exams and nothing else"),
    "a study that is no file": (["ablate", "./none.py:study"], "none.py: no such file; expected a Python file"),
    "several seeds of a try": (["ablate", "training", "--quick", "--seeds", "5"], "--quick is a try with one seed"),
    "before and after": (["ablate", "training", "--plan", "--report"], "give one of them"),
    "a file for a folder": (["demo", "--out", "fine.jsonl"], "fine.jsonl: holds something else than a demo"),
    "a used folder": (["demo", "--out", "other"], "other: holds something else than a demo"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(owl, tmp_path: Path, mistake: str) -> None:
    for name, text in LINES.items():
        (tmp_path / name).write_text(text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "fine.jsonl").write_text('{"image": "a.png", "caption": "a"}\n')
    (tmp_path / "empty_run").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    words, told = MISTAKES[mistake]
    code, out, err = owl(*words)
    assert code == 2
    assert out == ""
    assert told in err
    assert "Traceback" not in err
    assert err.startswith("owl: ")
    assert len(err.strip().splitlines()) <= 2  # the second names the broken record, where records were checked
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_one_line_and_a_code_of_its_own(owl, world: Path) -> None:
    few = ["--set", "steps=1", "--set", "batch=2", "--set", "micro_batch=2", "--set", "modules.vocabulary=300"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code, out, err = owl("train", "tiny.language", "--data", f"chat:{world}/text.jsonl", *few)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, out) == (74, "")
    assert re.search(r"^owl: runs/tiny\.language/model could not be written \(.*File too large.*\)$", err, re.MULTILINE)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["train"],
        ["chat"],
        ["plan", "tiny.pretrain", "--gpus", "0"],
        ["judge", "owl-tiny", "x", "--price-in", "-1"],
        ["inspect", "--limt", "1"],
    ],
)
def test_a_wrong_command_shows_how_it_is_used(owl, words: list[str]) -> None:
    code, _, err = owl(*words)
    assert code == 2
    assert "Usage: owl" in err


def test_a_picture_that_is_none(owl, small_model: Path) -> None:
    code, out, err = owl("chat", str(small_model), "--image", "absent.png", "What is it?")
    assert (code, out) == (2, "")
    assert err == "owl: absent.png: no such file\n"


def test_a_model_with_damaged_weights(owl, small_model: Path, tmp_path: Path) -> None:
    for file in small_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 2000 if file.suffix == ".safetensors" else None])
    code, _, err = owl("chat", str(tmp_path), "Hello?")
    assert code == 2
    assert "cut short or damaged" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_letter_that_an_old_encoding_lacks_ends_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe on Windows has one; a file's name may hold bytes that are no UTF-8, which Python keeps as surrogates."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["owl", "--version"])
    with pytest.raises(SystemExit, match="0"):
        mplug_owl_cli.main()
    print("⟦🔥⟧ b\udcffd.jsonl", file=out, flush=True)
    shown = out.buffer.getvalue().splitlines()[-1]
    assert shown == ("⟦🔥⟧ ".encode() + b"b\xffd.jsonl" if encoding == "utf-8" else b"??? b?d.jsonl")


def test_a_developer_can_see_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWL_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["owl", "plan", "none"])
    with pytest.raises(ValueError, match="no recipe 'none'"):
        mplug_owl_cli.main()


@pytest.mark.parametrize("raised", [ValueError("zip() argument 2 is shorter"), OSError("a bug of ours")])
def test_a_mistake_of_ours_is_a_crash_and_no_sentence(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only our own classes of errors are a user's. A library's ValueError in the middle of an exam has its traceback."""

    def broken(self: object, answers: object) -> None:
        raise raised

    monkeypatch.chdir(tmp_path)  # where the exam's folder goes
    monkeypatch.setattr("mplug_owl.eval.graders.exact.ExactMatch.grades", broken)
    monkeypatch.setattr(sys, "argv", ["owl", "eval", "owl-tiny", "scenes", "--limit", "1"])
    with pytest.raises(type(raised), match=str(raised).replace("(", r"\(").replace(")", r"\)")):
        mplug_owl_cli.main()


@pytest.mark.parametrize(("start", "counted"), [("owl-tiny", "2,906,112"), ("owl-smol", "134,515,008")])
def test_a_plan_counts_the_model_that_the_run_starts_from(owl, start: str, counted: str) -> None:
    """Not the recipe's 7 B: a whole owl's sizes, and those of eyes alone with the language model they were made for."""
    code, out, _ = owl("plan", "paper.instruct", "--from", start, "--set", "encoding.max_tokens=128")

    assert code == 0
    assert counted in out


# A story


def test_a_whole_story(owl, world: Path, tmp_path: Path) -> None:
    """Stage 0, 1 and 2 in three steps each, a question about a picture, and a look behind each door.

    By a recipe of one's own, with LLaMA's layers and no stem, because the original's layout has no room for LFM2's and for one.
    """
    Path("llama.py").write_text(
        "from dataclasses import replace\n"
        "from mplug_owl.recipes import tiny\n"
        "def config():\n"
        "    made = tiny.llama_owl_tiny()\n"
        "    made.vision_config.stem_channels = ()\n"
        "    return made\n"
        "def language():\n"
        "    return replace(tiny.language(), modules=replace(tiny.PACKABLE, config=config, vision=None))\n"
    )
    short = ["--set", "steps=3", "--set", "batch=2", "--set", "micro_batch=2"]
    stages = {
        "./llama.py:language": [
            *("--data", f"text:{world}/words.jsonl@1", "--data", f"chat:{world}/text.jsonl@3"),
            *("--set", "modules.vocabulary=300"),
        ],
        "tiny.pretrain": ["--data", f"captions:{world}/captions.jsonl", "--from", "runs/tiny.language"],
        "tiny.instruct": ["--data", f"chat:{world}/chats.jsonl", "--from", "runs/tiny.pretrain", "--out", "runs/done"],
    }
    (world / "words.jsonl").write_text('{"text": "A world of shapes."}\n')
    for (recipe, words), run in zip(stages.items(), ("tiny.language", "tiny.pretrain", "done"), strict=True):
        code, out, err = owl("train", recipe, *words, *short)
        assert code == 0, err
        assert out.strip() == f"runs/{run}/model"
        assert "step 3/3  loss" in err.replace("\n", " ")
    assert json.loads(Path("runs/done/recipe.json").read_text())["trainable"]["language"] == "lora"

    code, _, err = owl("train", "tiny.instruct", *stages["tiny.instruct"], *short)
    assert code == 2
    assert "runs/done: holds a run already; choose another --out, or continue it by --resume" in err

    image = str(world / "images" / "00001.png")
    code, answer, err = owl("chat", "runs/done", "--image", image, "--max-new-tokens", "8", "What shape is it?")
    assert (code, err) == (0, "")
    assert answer.endswith("\n")  # after three steps it may have nothing to say

    code, out, _ = owl("inspect", f"chat:{world}/chats.jsonl", "--model", "runs/done", "--limit", "1")
    assert code == 0
    assert "▣ 00000.png" in out
    assert "no problems" in out

    code, out, _ = owl("plan", "tiny.instruct", *stages["tiny.instruct"][:4], *short)
    assert code == 0
    assert "measured on the data" in out
    assert "f_L language" in out

    code, out, _ = owl("convert", "runs/done/model", "original", "--original")
    assert (code, out) == (0, "original\n")
    code, said, err = owl("chat", "original", "--image", image, "--max-new-tokens", "8", "What shape is it?")
    assert (code, err) == (0, "")
    assert said == answer


def test_an_exam_leaves_a_table_and_a_report(owl, small_model: Path, tmp_path: Path) -> None:
    """Of a small owl with random weights, which has nothing to say: one question an ability."""
    code, out, err = owl("eval", str(small_model), "scenes", "--limit", "1", "--out", "report")
    assert code == 0, err
    *table, target = out.splitlines()
    assert target == "report"
    assert max(map(len, table)) <= 100
    for words in ("with the picture", "unseen combinations", "overall", "0.0 [0.0, 39.0]", "written words never trained"):
        assert words in out
    rows = json.loads(Path("report/results.json").read_text())
    assert {row["mode"] for row in rows} == {"picture", "none", "description"}
    assert Path("report/radar.png").stat().st_size > 1000
    assert "data:image/png" in Path("report/wrong.html").read_text()


def test_an_exam_in_the_middle_of_a_run(owl, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(during, "COUNT", 1)
    short = ["--set", "steps=2", "--set", "batch=2", "--set", "micro_batch=2", "--set", "modules.vocabulary=300"]
    code, _, err = owl("train", "tiny.language", "--data", f"chat:{world}/text.jsonl", "--eval-every", "2", *short)
    assert code == 0, err
    assert "exam of 6 questions, percent correct: " in err.replace("\n", " ")
    last = json.loads(Path("runs/tiny.language/metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["eval/description/overall"] <= 1


def test_a_resumed_run_needs_nothing_said_twice(owl, world: Path) -> None:
    said = ["--data", f"chat:{world}/text.jsonl@2", "--data", f"chat:{world}/chats.jsonl@1"]
    few = [f"--set={field}" for field in ("steps=3", "batch=2", "micro_batch=2", "modules.vocabulary=300", "save_every=2")]
    assert owl("train", "tiny.language", *said, *few, "--resume")[0] == 0  # as a scheduler types it every time
    before = Path("runs/tiny.language/metrics.jsonl").read_text()

    code, out, err = owl("train", "tiny.language", "--resume", "--set", "log_every=1")
    assert (code, out.strip()) == (0, "runs/tiny.language/model")
    told = " ".join(err.split())  # broken into lines where it likes
    assert "taken from runs/tiny.language/recipe.json: batch: 2 then, 24 now; " in told
    assert f"data: ['{said[1]}', '{said[3]}'] then, {list(tiny.language().data)} now" in told
    assert "runs/tiny.language: resuming after step 2" in told
    after = Path("runs/tiny.language/metrics.jsonl").read_text()
    losses = [[(row["step"], row["loss"]) for row in map(json.loads, text.splitlines())] for text in (before, after)]
    assert losses[0] == losses[1]

    for words, difference in (
        (["--set", "batch=4"], "it differs in batch: 2 then, 4 now"),
        (said[:2], f"it differs in data: ['{said[1]}', '{said[3]}'] then, ['{said[1]}'] now"),
    ):
        code, _, err = owl("train", "tiny.language", "--resume", *words)
        assert code == 2
        assert difference in err


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["new", "resumed"])
def test_a_recipe_file_is_executed_once(resume: list[str], owl, world: Path) -> None:
    """It may do anything: fetch data, count its runs. With a run to resume its values are compared, not made again."""
    Path("mine.py").write_text(
        "from pathlib import Path\n"
        "from mplug_owl.recipes import tiny\n"
        "with Path('executed').open('a') as file:\n"
        "    file.write('x')\n"
        "def run():\n"
        "    return tiny.language()\n"
    )
    few = [f"--set={field}" for field in ("name=mine", "steps=2", "batch=2", "micro_batch=2", "modules.vocabulary=300")]
    few.append("--set=save_every=1")
    words = ["train", "./mine.py:run", "--data", f"chat:{world}/text.jsonl", *few]
    if resume:
        assert owl(*words)[0] == 0
        Path("executed").unlink()
    code, out, err = owl(*words, *resume)
    assert (code, out) == (0, "runs/mine/model\n"), err
    assert Path("executed").read_text() == "x"


def test_a_damaged_recipe_of_a_run(owl) -> None:
    Path("run").mkdir()
    for text in ('{"steps": ', '{"steps": "few"}', "17", "[1]", '{"batch": 5}'):
        Path("run/recipe.json").write_text(text)
        code, _, err = owl("train", "tiny.language", "--resume", "--out", "run")
        assert code == 2
        assert err.startswith("owl: run/recipe.json: not the recipe of a run (")


def test_inspecting_without_a_model_shows_words(owl, world: Path) -> None:
    code, out, _ = owl("inspect", f"{world}/captions.jsonl", "--limit", "2")
    assert code == 0
    assert out.count("▣ 0000") == 2
    assert "words are counted" in out


def test_talking_about_a_real_picture_file(owl, small_model: Path, tmp_path: Path) -> None:
    picture(3).convert("CMYK").save(tmp_path / "photo.jpg")
    code, out, err = owl("chat", str(small_model), "--image", "photo.jpg", "--max-new-tokens", "4", "What is it?")
    assert (code, err) == (0, "")
    assert out.strip()
