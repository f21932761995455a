"""The page's server: nothing it sends says who answered, and nobody else's page can grade."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from mplug_owl.conversation import Picture
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grades_file import key
from mplug_owl.eval.rating import page
from mplug_owl.eval.rating.people import WORDING
from mplug_owl.eval.rating.raters import Raters, shown
from mplug_owl.eval.task import Condition, Question
from tests.eval.rating import cards
from tests.html import Page

pytest.importorskip("fastapi", reason="the page is served by the extra `serve`")
testclient = pytest.importorskip("fastapi.testclient", reason="its client needs httpx2")
server = pytest.importorskip("mplug_owl.eval.rating.server")
BASE = "http://127.0.0.1:8000"


@pytest.fixture
def exam(tmp_path: Path) -> Exam:
    return cards.exam(tmp_path / "exam")


@pytest.fixture
def raters(exam: Exam, tmp_path: Path) -> Raters:
    answers = shown(exam.answers)
    return Raters("owleval", answers, tmp_path / "grades.jsonl", gold={key(answers[0]): "A"})


@pytest.fixture
def client(raters: Raters):
    return testclient.TestClient(server.make_app(raters), base_url=BASE)


def click(client, action: str, item: str | None = None, name: str = "anna", **other: object):
    """What a form of the page sends, and where it leads."""
    if item is None:
        item = re.search(r'name="item" value="(\w*)"', client.get(f"/rate/{name}").text)[1]
    return client.post(f"/rate/{name}", data={"item": item, "action": action}, **other)


def test_a_page_shows_the_answer_and_what_it_is_about(client, raters: Raters) -> None:
    anna = raters.progress("anna")
    while anna.current is not None:
        shown_now = anna.current.answer
        text = client.get("/rate/anna").text
        words = Page(text).words
        assert Page(text).open == []
        for said in (
            shown_now.question.text,
            *shown_now.turns,
            *(question for question, *_ in shown_now.earlier),
            *WORDING.values(),
        ):
            assert (said.strip() or "(no answer)") in words
        assert f"{len(anna.graded) + 1} of {len(anna.items)}" in words
        assert "<b>other" not in text
        assert "<script>alert" not in text
        assert all(len(set(re.findall(rf"<button[^>]* value=\"{letter}\"", text))) == 1 for letter in WORDING)
        assert click(client, "B").url.path == "/rate/anna"
    assert "Thank you" in client.get("/rate/anna").text


def test_no_byte_says_who_answered(client, raters: Raters, exam: Exam) -> None:
    """In pages, headers, pictures, the script and the export, from the first page to the last."""
    sent: list[bytes] = []

    def keep(response):
        sent.append(response.content + repr(response.headers).encode() + str(response.url).encode())
        for other in response.history:
            keep(other)
        return response

    for name in ("anna", "Ben"):
        keep(client.post("/", data={"name": name}))
        while True:
            text = keep(client.get(f"/rate/{name}")).text
            for source in Page(text).sources:
                keep(client.get(source))
            if "Thank you" in text:
                break
            keep(click(client, "skip" if len(sent) % 7 == 0 else "C", name=name))
        keep(client.get(f"/rate/{name}/grades.jsonl"))
        keep(click(client, "undo", name=name))
    everything = b"\n".join(sent).lower()
    assert len(sent) > 100
    for answer in exam.answers:
        assert answer.model.lower().encode() not in everything
        assert answer.model.partition("-")[0].encode() not in everything
        assert answer.digest.encode() not in everything


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_cannot_grade(client, raters: Raters, headers: dict[str, str]) -> None:
    assert click(client, "A", headers=headers).status_code == 403
    assert client.post("/", data={"name": "anna"}, headers=headers).status_code == 403
    assert not raters.path.read_bytes()


def test_our_own_page_can(client, raters: Raters) -> None:
    assert click(client, "A", headers={"Origin": BASE, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert len(raters.progress("anna").graded) == 1


def test_a_site_that_poses_as_this_machine_is_not_answered(raters: Raters) -> None:
    there = testclient.TestClient(server.make_app(raters), base_url="http://evil.example:8000")
    assert there.get("/").status_code == 421
    network = testclient.TestClient(server.make_app(raters, local=False), base_url="http://192.168.0.7:8000")
    assert network.get("/").status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("lab", False)],
)
def test_which_addresses_are_this_machine_alone(host: str, local: bool) -> None:
    assert server.is_local(host) is local


def test_a_form_is_small(client, raters: Raters) -> None:
    assert click(client, "A" * 5000).status_code == 413
    assert client.post("/rate/anna", content=iter([b"action=A"])).status_code == 413  # no length
    for odd in (b"", b"\xff\xfe%", b"action=A&action=E", b"item=1"):
        assert client.post("/rate/anna", content=odd).status_code == 200
    assert "nothing was changed" in click(client, "E").text
    assert not raters.path.read_bytes()


def test_a_double_click_counts_once_and_the_last_of_two_grades_counts(client, raters: Raters) -> None:
    first = raters.progress("anna").current.id
    assert click(client, "A", first).url.query == b""
    again = click(client, "A", first)
    assert "It counts once." in again.text
    changed = click(client, "D", first)
    assert "Your last grade counts." in changed.text
    assert raters.progress("anna").graded == {first: "D"}
    assert len(raters.path.read_text().splitlines()) == 2
    assert "out of date" in click(client, "undo", first).text
    assert "Undone" in click(client, "undo").text
    assert raters.progress("anna").graded == {first: "A"}
    assert "nothing was saved" in click(client, "A", "0" * 20).text


def test_a_notice_is_one_of_ours(client) -> None:
    text = client.get("/rate/anna?notice=<b>hello</b>").text
    assert "hello" not in text


def test_every_answer_has_its_policy(client) -> None:
    for path in ("/", "/rate/anna", "/rate.js", "/picture/none", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "same-origin"
    assert client.get("/rate/anna").headers["cache-control"] == "no-store"
    assert "http-equiv" not in client.get("/rate/anna").text  # a second policy would forbid the form's script


def test_a_name_is_needed(client) -> None:
    refused = client.post("/", data={"name": "  "})
    assert refused.status_code == 400
    assert "A name has 1 to 40 letters" in refused.text
    assert client.post("/", data={"name": "Zoë O'Hara"}).url.path == "/rate/Zoë O'Hara"


def test_one_rater_is_not_asked_for_a_name(raters: Raters) -> None:
    client = testclient.TestClient(server.make_app(raters, rater="Anna"), base_url=BASE)
    assert client.get("/").url.path == "/rate/Anna"
    assert client.get("/rate/ben").status_code == 404
    assert client.post("/rate/ben", data={"action": "A"}).status_code == 404


@pytest.mark.parametrize("typed", ["Anna  Maria", "Zoe\u0308", " anna "])
def test_the_one_rater_may_grade_however_the_name_was_typed(typed: str, raters: Raters) -> None:
    client = testclient.TestClient(server.make_app(raters, rater=typed), base_url=BASE)
    assert client.get("/").status_code == 200


def test_the_export_is_a_persons_grades_with_the_known_ones_at_the_end(client, raters: Raters) -> None:
    anna = raters.progress("anna")
    known = next(item for item in anna.items if key(item.answer) in raters.gold)
    click(client, "B", known.id)
    rows = [json.loads(line) for line in client.get("/rate/anna/grades.jsonl").text.splitlines()]
    assert [row["grade"] for row in rows] == ["B"]
    assert "gold" not in rows[0]  # or it could be seen beforehand
    raters.grade(anna, known.id, "A")
    while anna.current is not None:
        raters.grade(anna, anna.current.id, "A")
    rows = [json.loads(line) for line in client.get("/rate/anna/grades.jsonl").text.splitlines()]
    assert {row["item"]: row["grade"] for row in rows} == anna.graded
    assert [row["gold"] for row in rows if "gold" in row] == ["A"] * sum(key(item.answer) in raters.gold for item in anna.items)
    assert client.get("/rate/ben/grades.jsonl").text == ""


def test_a_full_disk_is_a_page(
    client, raters: Raters, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mplug_owl.eval.lines.os.fsync", full)
    refused = click(client, "A")
    assert (refused.status_code, "The disk takes no more" in refused.text) == (507, True)
    assert "No space left" in capsys.readouterr().err


def test_pictures_are_new_files_of_a_bearable_size(tmp_path: Path) -> None:
    photograph = Image.effect_noise((2500, 250), 90).convert("RGBA")
    photograph.getexif()[271] = "zebrafish"
    file = tmp_path / "photograph.png"
    photograph.save(file, exif=photograph.getexif())
    question = Question("1", "seeing", "photograph", (("What?", ""),), lambda: Image.open(file))
    two = Question("2", "seeing", "cards", (("", ""),), parts=((Picture(file), "or", Picture(Image.new("RGB", (9, 7)))),))
    broken = Question("3", "seeing", "cards", (("", ""),), parts=((Picture(b"none"),),))
    condition = Condition("all", "picture", "", "")
    pictures = page.Pictures.of([Answer(one, condition, ("Yes.",), "zebrafish") for one in (question, two, broken)])
    found = {
        name: [one for number in range(page.pictures_in(of)) if (one := page.picture_id(of, number))]
        for name, of in (("one", question), ("two", two))
    }
    sent = pictures.encoded(found["one"][0])
    assert (sent.media_type, sent.width, sent.height) == ("image/jpeg", 2000, 200)
    assert Image.open(io.BytesIO(sent.content)).size == (2000, 200)
    assert b"zebrafish" not in sent.content
    assert [pictures.encoded(one).media_type for one in found["two"]] == ["image/jpeg", "image/png"]


def test_a_picture_that_cannot_be_opened_is_missed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Question("3", "seeing", "cards", (("What?", ""),), parts=((Picture(b"none"), "What?"),))
    answer = Answer(broken, Condition("all", "picture", "", ""), ("Nothing.",), "zebrafish")
    client = testclient.TestClient(server.make_app(Raters("mine", [answer], tmp_path / "grades.jsonl")), base_url=BASE)
    shown_now = client.get("/rate/anna")
    assert shown_now.status_code == 200
    assert client.get(Page(shown_now.text).sources[0]).status_code == 404
    assert "picture of 4 bytes" in capsys.readouterr().err


def test_a_question_in_words_alone_has_no_picture_and_two_pictures_are_numbered(tmp_path: Path) -> None:
    words = Question("1", "writing", "words", (("Why?", ""),))
    cards_of_two = (Picture(Image.new("RGB", (9, 7))), "and", Picture(Image.new("RGB", (7, 9))))
    two = Question("2", "seeing", "cards", (("Which?", ""),), parts=(cards_of_two,))
    for question, alts in ((words, []), (two, ["Picture 1 of 2", "Picture 2 of 2"])):
        answer = Answer(question, Condition("all", "picture", "", ""), ("So.",), "zebrafish")
        raters = Raters("mine", [answer], tmp_path / f"{question.id}.jsonl")
        client = testclient.TestClient(server.make_app(raters), base_url=BASE)
        shown_now = client.get("/rate/anna").text
        assert re.findall(r'alt="(Picture . of .)', shown_now) == alts
        sent = [client.get(source) for source in Page(shown_now).sources if source.startswith("/picture")]
        assert [Image.open(io.BytesIO(one.content)).size for one in sent] == [(9, 7), (7, 9)][: len(alts)]


def test_a_port_that_is_taken_is_an_error(raters: Raters) -> None:
    import socket

    from mplug_owl.errors import UserError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: .* another --host or --port"):
            server.serve(raters, "127.0.0.1", port, None, lambda address: None)
