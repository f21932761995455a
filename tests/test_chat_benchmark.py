"""The benchmark of a second question, at a small size: both questions get words, and the second waits for less work."""

from benchmarks.chat import letter_owl, waits
from tests.tiny import tiny_config


def test_both_questions_are_timed() -> None:
    owl = letter_owl(tiny_config())
    computed: list[int] = []
    owl.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    found = list(waits(owl, 1))
    assert len(found) == 2
    assert all(wait.wall > 0 and wait.cpu > 0 for wait in found)
    first, second = sorted(computed)[-1:-3:-1]
    assert second < first / 2
