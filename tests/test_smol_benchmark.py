"""The page that the owl-smol benchmark makes."""

from benchmarks.smol import page


def test_answers_on_the_page_are_text_and_no_markup() -> None:
    made = page([{"question": "Why <b>?", "base": "A & B", "owl": "yes"}])
    assert "Why &lt;b&gt;?" in made
    assert "A &amp; B" in made
