"""What is said while tokens come is what is said once all are there, whichever tokens spell it."""

import pytest

from mplug_owl.chat.settled import clean_answer, decoded_answer, settled_parts
from tests.model.families import BY_NAME, tokenizer_of

SAID = "Ja, wörld! 😀😀 猫猫\n\n end <|im_end|> é\u0301👩‍👧"


@pytest.mark.parametrize("name", ["qwen3", "gemma", "mistral", "llama2"])  # the last three fall back on bytes
@pytest.mark.parametrize("stop", [(), ("猫",), ("\n", " end")])
def test_an_answer_that_is_cut_anywhere_keeps_its_whole_characters(name: str, stop: tuple[str, ...]) -> None:
    tokenizer = tokenizer_of(BY_NAME[name])
    ids = tokenizer.encode(SAID, add_special_tokens=False)

    def decode(some: list[int]) -> str:
        return decoded_answer(some, lambda part: str(tokenizer.decode(part, skip_special_tokens=True)))

    whole = clean_answer(decode(ids), stop)
    for length in range(len(ids) + 1):
        cut = clean_answer(decode(ids[:length]), stop)
        assert whole.startswith(cut.rstrip("\ufffd").rstrip())
        assert "".join(settled_parts(ids[:length], decode, stop)) == cut
