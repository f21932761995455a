"""Letters are counted, several people's become the middle one, and graders of other kinds stay apart."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.eval.compare.gradings import gradings, letter_counts
from mplug_owl.eval.statistics import Share
from tests.eval.letters import answered, grades_of


def test_letters_are_counted_and_a_and_b_are_acceptable() -> None:
    grades = grades_of({"owl": "AABCDD", "llava": "AAAAAA"}, a_picture=1)
    counts = letter_counts(answered("owl", 6, a_picture=1), grades)
    assert counts.counts == (2, 1, 1, 2)
    assert counts.acceptable == Share(3, 6)
    assert counts.graded == 6


def test_no_letter_no_answer_and_no_grade_have_columns_of_their_own() -> None:
    answers = answered("owl", 5)
    answers[3] = replace(answers[3], turns=("",))
    grades = [replace(grade, answer=answers[number]) for number, grade in enumerate(grades_of({"owl": "A-CDD"}))][:4]
    counts = letter_counts(answers, grades)
    assert (counts.counts, counts.unscored, counts.unanswered, counts.ungraded) == ((1, 0, 1, 0), 1, 1, 1)
    assert (counts.acceptable.correct, counts.acceptable.total) == (1, 2)


@given(some.lists(some.sampled_from("ABCD"), min_size=1, max_size=7))
def test_several_people_give_the_middle_letter_which_is_the_majoritys(letters: list[str]) -> None:
    grades = [grade for number, letter in enumerate(letters) for grade in grades_of({"owl": letter}, f"rater {number}")]
    (made,) = gradings(grades)
    (grade,) = made.grades
    most, times = Counter(letters).most_common(1)[0]
    if 2 * times > len(letters):
        assert grade.letter == most
    better = sum(letter < grade.letter for letter in letters)
    worse = sum(letter > grade.letter for letter in letters)
    assert better <= len(letters) / 2
    assert worse < max(len(letters) / 2, 1)
    assert grade.score == (grade.letter in "AB")
    assert ("several graders" in made.rule) == (len(letters) > 1)


def test_people_are_one_group_and_each_judge_another() -> None:
    grades = [
        *grades_of({"owl": "AB"}, "anna"),
        *grades_of({"owl": "CB"}, "ben"),
        *grades_of({"owl": "DD"}, "gpt", "judge"),
        *grades_of({"owl": "AA"}, "qwen", "judge"),
        *grades_of({"owl": "BB"}, "old", "file"),
    ]
    made = gradings(grades)
    assert [one.title for one in made] == ["people anna, ben", "judge gpt", "judge qwen", "file old"]
    assert [[grade.letter for grade in one.grades] for one in made] == [["C", "B"], ["D", "D"], ["A", "A"], ["B", "B"]]


def test_who_gives_no_letter_does_not_outvote_who_does_and_audits_do_not_count() -> None:
    grades = [*grades_of({"owl": "-"}, "anna"), *grades_of({"owl": "B"}, "ben")]
    audits = [replace(grades[1], letter="D", round=1), replace(grades[1], letter="D", shown="removed")]
    (made,) = gradings([*grades, *audits])
    assert [grade.letter for grade in made.grades] == ["B"]
