"""Two people grade in a browser, with keys and by touch, leave in the middle, lose the server, and lose nothing else."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mplug_owl.eval.exam_folder import read_exam
from mplug_owl.eval.grades_file import read_grades
from tests.eval.rating import cards

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
COUNT, REPEATED = 18, 2  # 20 clicks each


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by the extra `browser`")
    pytest.importorskip("fastapi", reason="the page is served by the extra `serve`")
    if CHROMIUM is None:
        pytest.skip("chromium is not on the path")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def owl_rate(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The command itself, and the address that it prints."""
    entries = [str(folder / f"{system}.jsonl") for system in cards.SYSTEMS]
    command = [sys.executable, "-m", "mplug_owl_cli", "rate", *entries, "--data", str(folder), "--port", "0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while not (found := re.match(r"(http://\S+) ", line := server.stdout.readline())):
            assert line, "owl rate has ended"
        yield found[1], server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


class Person:
    """Somebody at a browser, who remembers what they did, and everything that was sent to them."""

    def __init__(self, name: str, touch: bool, scheme: str) -> None:
        self.name, self.touch, self.scheme = name, touch, scheme
        self.grades: dict[str, str] = {}
        self.sent: list[bytes] = []

    def sit_down(self, browser, address: str) -> None:
        size = {"width": 390, "height": 844} if self.touch else {"width": 1280, "height": 900}
        self.context = browser.new_context(viewport=size, has_touch=self.touch, is_mobile=self.touch, color_scheme=self.scheme)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("response", self.keep)
        self.page.goto(address)
        self.page.fill("#name", self.name)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def keep(self, response) -> None:
        if not 300 <= response.status < 400:
            self.sent.append(response.body())

    def leave(self) -> None:
        assert self.problems == []
        self.context.close()

    @property
    def item(self) -> str:
        return self.page.input_value("input[name=item]")

    @property
    def done(self) -> int:
        return int(self.page.get_attribute("progress", "value"))

    def act(self, action: str, key: str) -> None:
        """One key, or one tap on the button."""
        with self.page.expect_navigation():
            if self.touch:
                self.page.tap(f"button[value={action}]")
            else:
                self.page.keyboard.press(key)

    def grade(self, count: int) -> None:
        for _ in range(count):
            number = len(self.grades)
            item, letter = self.item, "ABCD"[number % 4]
            self.act(letter, letter.lower() if number % 2 else str(number % 4 + 1))
            self.grades[item] = letter


def check_layout(person: Person) -> None:
    """Nothing is wider than the screen, every button can be hit, the four grades are in view, and a picture has its words."""
    page = person.page
    page.wait_for_function("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    size = page.viewport_size
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    for button in page.query_selector_all("button"):
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 44
    for letter in "ABCD":
        box = page.query_selector(f"button[value={letter}]").bounding_box()
        assert 0 <= box["y"] <= box["y"] + box["height"] <= size["height"]
        assert 0 <= box["x"] <= box["x"] + box["width"] <= size["width"]
    assert all(image.get_attribute("alt") for image in page.query_selector_all("img"))


def test_two_people_lose_nothing(browser, tmp_path: Path) -> None:
    folder, out = tmp_path / "exam", tmp_path / "grades.jsonl"
    files = cards.write(folder)
    options = ("--out", str(out), "--limit", str(COUNT), "--repeat", "0.1")
    people = [Person("Anna", touch=False, scheme="light"), Person("Ben", touch=True, scheme="dark")]
    anna = people[0]
    with owl_rate(folder, *options) as (address, server):
        for person in people:
            person.sit_down(browser, address)
            check_layout(person)
        for _ in range(4):
            for person in people:
                person.grade(1)
                check_layout(person)
        for person in people:
            skipped = person.item
            person.act("skip", "s")
            shown = person.item
            assert shown != skipped
            person.grade(1)
            person.act("undo", "u")
            assert person.item == shown
            del person.grades[shown]
            person.grade(3)
        anna.leave()  # in the middle
        anna.sit_down(browser, address)
        assert anna.done == len(anna.grades) == 7
        server.send_signal(signal.SIGKILL)
        server.wait()
        for person in people:
            person.context.close()
    with owl_rate(folder, *options) as (address, server):
        for person in people:
            person.sit_down(browser, address)
            assert person.done == len(person.grades) == 7
        while going := [person for person in people if person.page.query_selector("progress")]:
            for person in going:
                person.grade(1)
        exported = {person.name: download(person, tmp_path) for person in people}
        for person in people:
            assert "Thank you" in person.page.inner_text("h1")
            person.leave()
        server.send_signal(signal.SIGINT)
        closing = server.communicate(timeout=20)[0]
        assert server.returncode == 0
    check_file(out, files, folder, people, closing)
    for person in people:
        assert exported[person.name] == person.grades
        assert COUNT + REPEATED - 1 <= len(person.grades) <= COUNT + REPEATED  # what was skipped is not shown twice
        everything = b"".join(person.sent).lower()
        assert len(everything) > 100_000
        assert not [name for name in cards.SYSTEMS if name.partition("-")[0].encode() in everything]


def download(person: Person, folder: Path) -> dict[str, str]:
    with person.page.expect_download() as found:
        person.page.click("text=Download your grades")
    found.value.save_as(file := folder / f"{person.name}.jsonl")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len({row["item"] for row in rows}) == len(rows)
    return {row["item"]: row["grade"] for row in rows}


def check_file(out: Path, files: list[str], folder: Path, people: list[Person], closing: str) -> None:
    """Every grade is in the file once, and the last lines count them."""
    grades = read_grades(out, "owleval", read_exam(files, data=folder).answers)
    for person in people:
        here = [grade for grade in grades if grade.grader == person.name]
        assert Counter(grade.letter for grade in here) == Counter(person.grades.values())
        assert sum(grade.round == 0 for grade in here) == COUNT
        assert f"{person.name}: {COUNT} graded, 0 left" in closing


def test_it_works_without_javascript(browser, tmp_path: Path) -> None:
    cards.write(tmp_path / "exam")
    with owl_rate(tmp_path / "exam", "--out", str(tmp_path / "grades.jsonl"), "--limit", "3") as (address, _):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(address)
        page.fill("#name", "Carla")
        page.click("text=Begin")
        for click, text in (("A", "2 of 3"), ("skip", "It comes again"), ("undo", "Here it is again"), ("B", "3 of 3")):
            page.click(f"button[value={click}]")
            assert text in page.inner_text("main")
        with context.expect_page() as opened:
            page.click(".pictures a")
        assert "/picture/" in opened.value.url
        page.click("button[value=D]")
        assert "Thank you" in page.inner_text("h1")
        context.close()


def test_a_picture_enlarges_in_its_page_and_two_clicks_are_one(browser, tmp_path: Path) -> None:
    cards.write(tmp_path / "exam")
    with owl_rate(tmp_path / "exam", "--out", str(out := tmp_path / "grades.jsonl")) as (address, _):
        person = Person("Dora", touch=False, scheme="dark")
        person.sit_down(browser, address)
        page = person.page
        page.click(".pictures a")
        assert page.is_visible("dialog img")
        page.keyboard.press("a")  # grades nothing while the picture is in front
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        assert person.done == 0
        with page.expect_navigation():
            page.dblclick("button[value=C]")
        page.wait_for_load_state("networkidle")
        assert person.done == 1
        assert page.query_selector(".notice") is None  # the second click was not sent
        assert len(out.read_text().splitlines()) == 1
        page.go_back()
        page.wait_for_function("document.querySelector('progress').value === 1")  # a page kept by the browser is asked again
        person.leave()
