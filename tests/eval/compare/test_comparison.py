"""Several systems in one table: answers, grades of several kinds, figures, pages and JSON, by one command."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mplug_owl import UserError
from mplug_owl.eval.compare.bars import draw_bars
from mplug_owl.eval.compare.comparison import compare
from mplug_owl.eval.compare.gather import gather
from mplug_owl.eval.compare.gradings import LetterCounts
from mplug_owl.eval.compare.published import published
from mplug_owl.eval.compare.report import page as made_page
from mplug_owl.eval.compare.run import ReportRun, run_report
from mplug_owl.eval.compare.tables import counts_cells, ends, entry_cells, p_words
from mplug_owl.eval.compare.values import plain
from mplug_owl.eval.exam_folder import ExamSettings, open_exam, read_exam
from mplug_owl.eval.grade import Grade, lettered
from mplug_owl.eval.grades_file import GradesFile
from mplug_owl.eval.judge.pairs import Pair, PairsFile, pairs_of
from mplug_owl.eval.statistics import Share
from mplug_owl_cli import app
from tests.eval.owleval import QUESTIONS, folder_of
from tests.html import Page

pytest.importorskip("statsmodels", reason="the extra `eval` is not installed")
pytest.importorskip("evalica", reason="the extra `eval` is not installed")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """statsmodels collects garbage at every call of Holm's; each resample of strengths and alpha is a call of evalica."""
    monkeypatch.setattr("gc.collect", lambda: 0)
    for name in ("compare.ranking", "compare.rater_agreement"):
        monkeypatch.setattr(f"mplug_owl.eval.{name}.RESAMPLES", 100)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "OwlEval").mkdir()
    return folder_of(tmp_path / "OwlEval")


def released(path: Path, model: str, answers: dict[int, str]) -> str:
    """A file of answers as OwlEval has them."""
    rows = [
        {
            "image": one["image"],
            "question_id": one["question_id"],
            "question": one["question"],
            "answer": answer,
            "model_id": model,
        }
        for one in QUESTIONS
        if (answer := answers.get(one["question_id"])) is not None
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def entries(tmp_path: Path, data: Path) -> list[str]:
    """Two files of answers, of which one has no answer to a question, and an exam's folder."""
    one = released(tmp_path / "one.jsonl", "one", {1: "a <b>cat</b>", 2: "left", 3: "hers", 4: "so"})
    two = released(tmp_path / "two.jsonl", "two", {1: "a dog", 2: "无法回溯", 3: "his", 4: "no"})
    settings = ExamSettings("owleval", str(data), "small")
    with open_exam(tmp_path / "three", settings) as kept:
        for answer in read_exam([one], data=data).answers:
            kept.add(answer.question, answer.condition, answer.turns)
    return [one, two, str(tmp_path / "three")]


def graded(entries: list[str], data: Path, folder: Path, grader: str, kind: str, letters: str) -> Path:
    """A file of grades for these entries' answers, the letters in turn."""
    folder.mkdir(exist_ok=True)
    file = GradesFile(folder / "grades.jsonl", "owleval")
    for number, answer in enumerate(read_exam(entries, data=data).answers):
        letter = letters[number % len(letters)]
        file.add(lettered(answer, None if letter == "-" else letter, grader, kind))
    return folder / "grades.jsonl"


def test_each_group_of_graders_has_its_own_figures(entries: list[str], data: Path, tmp_path: Path) -> None:
    anna = graded(entries[:2], data, tmp_path / "anna", "anna", "person", "ABCD")
    gpt = graded(entries[:2], data, tmp_path / "gpt", "gpt", "judge", "A-")
    exam, grades, pairs = gather(entries, [anna, gpt.parent], data=data)
    made = compare(exam, grades, pairs)
    assert [one.grading.title for one in made.gradings] == ["people anna", "judge gpt"]
    people, judge = made.gradings
    assert [half.title for half in people.halves] == ["single-turn", "multi-turn", "all"]
    counts = dict(people.halves[2].counts)
    assert counts["one"].counts == (2, 1, 1, 1)
    assert (counts["two"].graded, counts["two"].unanswered, counts["small"].ungraded) == (3, 2, 5)
    assert dict(judge.halves[2].counts)["one"].unscored == 2
    assert people.halves[0].abilities.rows[-1][1][0].total == 2  # two of the single-turn questions
    assert people.passport is None
    assert judge.passport is not None
    assert judge.passport.judge == "gpt"


def test_abilities_are_ours_or_all_that_were_released(entries: list[str], data: Path, tmp_path: Path) -> None:
    anna = graded(entries[:1], data, tmp_path / "anna", "anna", "person", "A")
    exam, grades, _ = gather(entries[:1], [anna], data=data)
    totals = {}
    for labels in ("ours", "released"):
        (table,) = compare(exam, grades, labels=labels).gradings[0].tables
        totals[labels] = {name: row[0].total for name, row in table.rows}
    assert sum(totals["ours"].values()) == 2 * totals["ours"]["overall"] == 10  # each once, and all together
    assert totals["released"]["instruction understanding"] == totals["released"]["overall"] == 5


def test_a_folders_own_grades_are_found_by_whatever_name_it_is_called(entries: list[str], data: Path) -> None:
    graded(entries[2:], data, Path(entries[2]), "anna", "person", "B")
    for entry, called in ((entries[2], "small"), (f"mine={entries[2]}", "mine")):
        _, grades, _ = gather([entries[0], entry])
        assert [(grade.answer.model, grade.letter) for grade in grades] == [(called, "B")] * 5


def test_a_folders_grades_are_not_those_of_a_system_that_has_its_name_now(
    entries: list[str], data: Path, tmp_path: Path
) -> None:
    """Two exams of models of one name: either may be called otherwise."""
    with open_exam(tmp_path / "four", ExamSettings("owleval", str(data), "small")) as kept:
        for answer in read_exam(entries[1:2], data=data).answers:
            kept.add(answer.question, answer.condition, answer.turns)
    graded([str(tmp_path / "four")], data, tmp_path / "four", "anna", "person", "C")
    _, grades, _ = gather([entries[2], f"new={tmp_path / 'four'}"])
    assert {(grade.answer.model, grade.letter) for grade in grades} == {("new", "C")}


def test_the_file_named_last_counts(entries: list[str], data: Path, tmp_path: Path) -> None:
    first = graded(entries[:1], data, tmp_path / "first", "anna", "person", "A")
    last = graded(entries[:1], data, tmp_path / "last", "anna", "person", "D")
    _, grades, _ = gather(entries[:1], [first, last], data=data)
    assert [grade.letter for grade in grades] == ["D"] * 5


def test_files_made_by_hand_are_a_group_each(entries: list[str], data: Path, tmp_path: Path) -> None:
    """Neither takes the place of the other because neither says who graded."""
    files = [tmp_path / "anna.jsonl", tmp_path / "ben" / "grades.jsonl"]
    files[1].parent.mkdir()
    for path, letter in zip(files, "AD", strict=True):
        path.write_text(json.dumps({"question_id": "1", "grade": letter}) + "\n")
    exam, grades, _ = gather(entries[:1], files, data=data)
    made = compare(exam, grades).gradings
    assert [(one.title, one.grades[0].letter) for one in (each.grading for each in made)] == [
        ("file anna", "A"),
        ("file ben", "D"),
    ]


def test_grades_of_somebody_elses_answers_are_an_error(entries: list[str], data: Path, tmp_path: Path) -> None:
    other = graded(entries[1:2], data, tmp_path / "other", "anna", "person", "A")
    with pytest.raises(UserError, match="grades none of these answers"):
        gather(entries[:1], [other], data=data)


def test_one_command_makes_the_whole_report(entries: list[str], data: Path, tmp_path: Path) -> None:
    anna = graded(entries[:2], data, tmp_path / "anna", "anna", "person", "ABCD")
    graded(entries[:2], data, tmp_path / "anna", "ben", "person", "BBDC")
    found = read_exam(entries[:2], data=data)
    pairs = PairsFile(tmp_path / "anna" / "pairs.jsonl", "owleval")
    for first, second in pairs_of(found.answers):
        pairs.add(Pair(first, second, ("first", "first"), "gpt"))
    words = ["report", *entries, "--data", str(data), "--grades", str(anna), "--published", "--plan", "0.2"]
    shown = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")], env={"COLUMNS": "110"})
    assert shown.exit_code == 0, shown.output
    for said in ("3 of 5", "not graded yet", "people anna, ben", f"owl rate {entries[2]}", "0 verdicts", "ordinal alpha"):
        assert said in shown.output, said
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "report.json", "published.png", "published.svg", "bars-people-anna-ben.png"} <= written
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["system"] for one in values["systems"]] == ["one", "two", "small"]
    assert values["published"]["halves"]["single"]["mPLUG-Owl"]["A"] == 32
    assert values["rankings"][0]["strengths"][0]["system"] == "one"
    assert "NaN" not in (tmp_path / "out" / "report.json").read_text()
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.open == []
    assert all(source.startswith("data:image/") for source in page.sources)
    assert sum(source.startswith("data:image/jpeg") for source in page.sources) == 2  # each picture once
    for answer in ("a <b>cat</b>", "a dog", "hers", "(no answer)", "asked before: Where is it?"):
        assert answer in page.words


def test_pairs_about_one_picture_have_no_interval(entries: list[str], data: Path) -> None:
    exam, grades, _ = gather(entries[:2], data=data)
    first, second = pairs_of(exam.answers)[0]
    words = Page(made_page(compare(exam, grades, [Pair(first, second, ("first", "first"), "gpt")]), {})).words
    assert "Pairs compared by gpt: 1" in words
    assert "nan" not in words


def test_answers_without_any_grade_stand_in_the_table(entries: list[str], data: Path, tmp_path: Path) -> None:
    out = run_report(ReportRun(tuple(entries), data=data, out=tmp_path / "out"))
    page = Page((out / "report.html").read_text())
    assert "Nobody has graded these answers yet" in page.words
    assert "owl judge JUDGE" in page.words
    assert json.loads((out / "report.json").read_text())["gradings"] == []


def test_the_published_figure_alone(tmp_path: Path) -> None:
    out = run_report(ReportRun((), published=True, out=tmp_path))
    assert {path.name for path in out.iterdir()} == {"published.png", "published.svg", "report.html", "report.json"}
    page = Page((out / "report.html").read_text())
    assert page.open == []
    assert "32" in page.words
    first = (out / "published.svg").read_bytes()
    run_report(ReportRun((), published=True, out=tmp_path))
    assert (out / "published.svg").read_bytes() == first


def test_every_count_of_the_paper_is_written_on_its_bar() -> None:
    halves = published().halves
    drawn = draw_bars(halves, "title", "note")
    for panel, systems in zip(drawn.axes, halves.values(), strict=True):
        words = [text.get_text() for text in panel.texts]
        counts = [str(count) for one in systems.values() for count in one.counts if count]
        assert [word for word in words if word.isdecimal()] == counts
        widths = [bar.get_width() for bar in panel.patches if bar.get_width()]
        assert widths == pytest.approx([count / one.graded for one in systems.values() for count in one.counts if count])
        whiskers = [part for line in panel.collections for part in line.get_segments()]
        found = [float(end) for part in whiskers for end in part[:, 0]]
        assert found == pytest.approx([end for one in systems.values() for end in one.acceptable.interval])


def test_a_bar_without_grades_says_so() -> None:
    drawn = draw_bars({"half": {"none": LetterCounts((0, 0, 0, 0), Share(0, 0), 1, 2, 3)}}, "title", "note")
    assert "no grades" in [text.get_text() for text in drawn.axes[0].texts]
    assert counts_cells(LetterCounts((0, 0, 0, 0), Share(0, 0), 1, 2, 3))[4:] == ["–", "", "", "1", "2", "3"]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (ReportRun(()), "nothing to report"),
        (ReportRun((), published=True, abilities="theirs"), "expected ours or released"),
        (ReportRun((), (Path("grades.jsonl"),), published=True), "name the entries"),
        (ReportRun(("gone.jsonl",)), "no such file or folder"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(run: ReportRun, said: str) -> None:
    with pytest.raises(UserError, match=said):
        run_report(run)


def test_a_judge_that_nobody_could_read_is_not_nobody(entries: list[str], data: Path, tmp_path: Path) -> None:
    """Its grades are unscored: the table names it, with no grade, and the page is made."""
    gpt = graded(entries[:1], data, tmp_path / "gpt", "gpt", "judge", "-")
    exam, grades, pairs = gather(entries[:2], [gpt], data=data)
    made = compare(exam, grades, pairs)
    assert entry_cells(made.entries[0], made.gradings)[3] == "judge gpt (0)"
    assert entry_cells(made.entries[1], made.gradings)[3] == "not graded yet"
    out = run_report(ReportRun(tuple(entries[:2]), (gpt,), data=data, out=tmp_path / "out"))
    assert "unscored" in Page((out / "report.html").read_text()).words


def test_scores_that_are_no_letters_have_means(entries: list[str], data: Path) -> None:
    exam = read_exam(entries[:2], data=data)
    scores = [Grade(answer, 0.25, grader="anls") for answer in exam.answers]
    (made,) = compare(exam, scores).gradings
    assert made.halves == ()
    assert made.tables[0].columns[0] == "one, single-turn"
    assert made.tables[0].rows[-1][1][0].value == 0.25


def test_cells_that_people_read() -> None:
    assert [p_words(value) for value in (0.0001, 0.0123, 0.5)] == ["< 0.001", "0.012", "0.50"]
    assert ends((math.nan, math.nan)) == ends(None) == ""
    assert plain({"a": (math.nan, 1), "b": Share(1, 2)}) == {"a": [None, 1], "b": {"correct": 1, "total": 2, "resampled": None}}


def test_without_the_extra_it_says_what_to_install(
    entries: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = graded(entries[:2], data, tmp_path / "anna", "anna", "person", "ABCD")
    monkeypatch.setitem(sys.modules, "statsmodels.stats.contingency_tables", None)
    with pytest.raises(UserError, match=r"pip install 'mplug-owl\[eval\]'"):
        run_report(ReportRun(tuple(entries), (anna,), data=data, out=tmp_path / "out"))


def test_the_released_systems_and_a_file_of_answers_in_one_table(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "owleval" / "answer").glob("*.jsonl"))
    mine = tmp_path / "mine.jsonl"
    rows = [json.loads(line) | {"model_id": "mine"} for line in files[0].read_text("utf-8").splitlines()]
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows))
    exam, grades, _ = gather([*map(str, files), str(mine)], data=shared / "owleval")
    made = compare(exam, grades)
    assert len(made.entries) == 7
    assert {entry.asked for entry in made.entries} == {102}
    assert made.entries[-1] == replace(made.entries[0], system="mine")
    assert made.entries[0].answered == 92  # MM-REACT has no answer to ten
