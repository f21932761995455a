"""Who graded what: any order of clicks, kills and half-written lines leads to the same grades as on paper."""

import json
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_owl.errors import UserError
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grade import LETTERS
from mplug_owl.eval.grades_file import key, read_grades
from mplug_owl.eval.rating.raters import Raters, Summary, alone, shown
from tests.eval.rating import cards


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Exam:
    return cards.exam(tmp_path_factory.mktemp("cards") / "exam")


def raters(exam: Exam, path: Path, repeat: float = 0.3, **other: object) -> Raters:
    return Raters("owleval", shown(exam.answers), path, repeat=repeat, **other)


class Paper:
    """What somebody would note down by hand: after each click the grades and the skipped, so that an undo turns a page back."""

    def __init__(self) -> None:
        self.pages: list[tuple[dict[str, str], list[str]]] = [({}, [])]

    def note(self, item: str, letter: str | None) -> None:
        grades, skipped = self.pages[-1]
        rest = [one for one in skipped if one != item]
        self.pages.append(({**grades, item: letter}, skipped) if letter else (grades, [*rest, item]))

    def undo(self) -> None:
        if len(self.pages) > 1:
            self.pages.pop()


CLICKS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(LETTERS), st.just(0)),  # a grade for the current item
        st.tuples(st.sampled_from(LETTERS), st.integers(1, 29)),  # for a later one
        st.tuples(st.sampled_from(LETTERS), st.integers(-3, -1)),  # for one of those graded before
        st.tuples(st.sampled_from(["skip", "undo", "undo", "kill", "torn"]), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["anna", "Ben"]), CLICKS))
def test_any_clicks_lead_to_the_grades_on_paper(exam: Exam, clicks: dict[str, list]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "grades.jsonl")
        here, papers = raters(exam, path), {name: Paper() for name in clicks}
        for turn in range(25):
            for name, todo in clicks.items():
                if turn < len(todo):
                    here = click(here, exam, name, papers[name], *todo[turn])
        again = raters(exam, path)
        for name, paper in papers.items():
            grades, skipped = paper.pages[-1]
            for person in (here.progress(name), again.progress(name)):
                assert person.graded == grades
                assert [item.id for item in person.waiting if item.id in skipped] == [
                    one for one in skipped if one not in grades
                ]
            assert here.progress(name).waiting == again.progress(name).waiting
            assert here.progress(name).events == again.progress(name).events
        assert written(path, exam, here) == {
            (name, item): letter for name in papers for item, letter in papers[name].pages[-1][0].items()
        }


def click(here: Raters, exam: Exam, name: str, paper: Paper, what: str, which: int) -> Raters:
    person = here.progress(name)
    before, current = dict(person.graded), person.current
    if what in ("kill", "torn"):
        if what == "torn":
            with here.path.open("ab") as file:
                file.write(b'{"task": "owleval", "model_id": "zeb')
        return raters(exam, here.path)
    if what == "undo":
        outcome = here.undo(person, current.id if current else "")
        assert outcome == ("undone" if len(paper.pages) > 1 else "nothing")
        paper.undo()
    elif what == "skip":
        if current is not None:
            assert here.skip(person, current.id) == "skipped"
            paper.note(current.id, None)
    else:
        items = [item.id for item in person.waiting] if which >= 0 else list(before)
        if -len(items) <= which < len(items):
            item = items[which]
            expected = "graded" if item not in before else "same" if before[item] == what else "changed"
            assert here.grade(person, item, what) == expected
            if expected != "same":
                paper.note(item, what)
    return here


def written(path: Path, exam: Exam, here: Raters) -> dict[tuple[str, str], str]:
    """The grades that everybody else reads in the file, by person and item."""
    found = {}
    for grade in read_grades(path, "owleval", exam.answers):
        assert (grade.kind, grade.score) == ("person", float(grade.letter in "AB"))
        item = here.progress(grade.grader).by_answer[key(grade.answer), grade.round]
        assert (grade.grader, item.id) not in found
        found[grade.grader, item.id] = grade.letter
    return found


def test_a_page_that_is_out_of_date_changes_nothing(exam: Exam, tmp_path: Path) -> None:
    here = raters(exam, tmp_path / "grades.jsonl")
    anna = here.progress("anna")
    first = anna.current.id
    assert here.grade(anna, first, "A") == "graded"
    assert (here.skip(anna, first), here.undo(anna, first), here.undo(anna, "")) == ("stale", "stale", "stale")
    assert here.grade(anna, "0" * 20, "A") == "unknown"
    assert here.grade(here.progress("ben"), first, "A") == "unknown"
    assert len((tmp_path / "grades.jsonl").read_text().splitlines()) == 1
    assert here.undo(anna, anna.current.id) == "undone"
    assert read_grades(tmp_path / "grades.jsonl", "owleval", exam.answers) == []


def test_a_name_is_one_person_in_any_spelling(exam: Exam, tmp_path: Path) -> None:
    here = raters(exam, tmp_path / "grades.jsonl")
    anna = here.progress("  Anna   Lena ")
    assert anna.name == "Anna Lena"
    assert here.progress("anna lena") is anna
    here.grade(anna, anna.current.id, "C")
    assert raters(exam, here.path).progress("ANNA LENA").name == "Anna Lena"


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "<b>", "a" * 41, "a\nb\0", "-"])
def test_what_is_no_name(exam: Exam, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a name has 1 to 40 letters"):
        raters(exam, tmp_path / "grades.jsonl").progress(name)


def test_a_summary_counts_answers_and_pairs(exam: Exam, tmp_path: Path) -> None:
    answers = shown(exam.answers)
    here = raters(exam, tmp_path / "grades.jsonl", gold={key(answers[0]): "A", key(answers[1]): "B"})
    assert here.summaries() == []
    anna = here.progress("anna")
    while anna.current is not None:
        here.grade(anna, anna.current.id, "A")
    count = len(answers)
    assert here.summaries() == [Summary("anna", count, 0, (round(0.3 * count),) * 2, (1, 2))]
    assert raters(exam, here.path).progress("anna").graded == anna.graded
    repeated = next(item for item in anna.items if item.round == 1)
    here.grade(anna, repeated.id, "B")
    assert here.summaries()[0].repeated == (round(0.3 * count) - 1, round(0.3 * count))


def test_a_full_disk_changes_nothing(exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = raters(exam, tmp_path / "grades.jsonl")
    anna = here.progress("anna")
    here.grade(anna, anna.current.id, "A")
    events, current, lines = list(anna.events), anna.current, here.path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mplug_owl.eval.lines.os.fsync", full)
    for act in (here.skip, here.undo, lambda person, item: here.grade(person, item, "B")):
        with pytest.raises(OSError, match="could not be written"):
            act(anna, current.id)
        assert (anna.events, anna.current, here.path.read_bytes()) == (events, current, lines)


def test_lines_of_others_are_left_alone(exam: Exam, tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    here = raters(exam, path)
    anna = here.progress("anna")
    here.grade(anna, anna.current.id, "A")
    row = json.loads(path.read_text())
    for change in ({"kind": "judge"}, {"grader": None}, {"model_id": "another"}, {"round": "1"}, {"question_id": "999"}):
        path.write_text(path.read_text() + json.dumps({**row, "grade": "D", **change}) + "\n")
    assert list(raters(exam, path).progress("anna").graded.values()) == ["A"]


def test_clicks_at_the_same_time_count_once(exam: Exam, tmp_path: Path) -> None:
    here = raters(exam, tmp_path / "grades.jsonl")
    people = [here.progress("anna"), here.progress("ben")]
    with ThreadPoolExecutor(8) as threads:
        while people[0].current is not None:
            shown_now = [(person, person.current.id) for person in people * 4]
            clicks = [threads.submit(here.grade, person, item, "B") for person, item in shown_now]
            assert Counter(click.result() for click in clicks) == {"graded": 2, "same": 6}
    lines = here.path.read_text().splitlines()
    assert len(lines) == sum(len(person.items) for person in people)
    assert [person.graded for person in map(raters(exam, here.path).progress, ("anna", "ben"))] == [
        person.graded for person in people
    ]


def test_an_undo_is_that_of_its_answer(exam: Exam, tmp_path: Path) -> None:
    """Also where the files of two sessions were joined, so that something else came last."""
    path = tmp_path / "grades.jsonl"
    here = raters(exam, path)
    anna = here.progress("anna")
    first = anna.current
    here.grade(anna, first.id, "A")
    here.undo(anna, anna.current.id)
    here.grade(anna, anna.waiting[1].id, "B")
    graded, undone, other = path.read_text().splitlines()
    path.write_text("\n".join((graded, other, undone)) + "\n")
    again = raters(exam, path).progress("anna")
    assert (list(again.graded.values()), again.current.answer) == (["B"], first.answer)


def test_one_server_writes_a_file(tmp_path: Path) -> None:
    with alone(tmp_path / "grades.jsonl"), pytest.raises(UserError, match="another owl rate"), alone(tmp_path / "grades.jsonl"):
        pass
    with alone(tmp_path / "grades.jsonl"):
        pass
