"""An answer's words while its tokens come: what no later token can change, and what is left once it is whole."""

from collections.abc import Callable, Generator, Iterable, Sequence

# What half a character is decoded to.
HALF = "\ufffd"


def decoded_answer(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
    """An answer's ids to words. Half a character at the end spoils none in front of it.

    Tokenizers that spell rare characters in bytes give a whole run of such characters up where its last one is cut.
    """
    answer = decode(ids)
    if answer.endswith(HALF):
        for cut in range(1, 4):  # a character has four bytes at most
            whole = decode(ids[:-cut])
            if not whole.endswith(HALF):
                return answer if answer.startswith(whole) else whole + HALF
    return answer


def clean_answer(answer: str, stop: Sequence[str]) -> str:
    """An answer up to the stop word that begins first, without space around it."""
    ends = [answer.find(word) for word in stop if word in answer]
    return answer[: min(ends, default=len(answer))].strip()


def settled_answer(answer: str, stop: Sequence[str]) -> str:
    """The part of an unfinished answer that no later token can change.

    Not settled are half a character, space at the end, and what may become a stop word.
    """
    if any(word in answer for word in stop):  # then it is finished
        return clean_answer(answer, stop)
    answer = answer.rstrip(HALF)
    begun = [length for word in stop for length in range(1, len(word)) if answer.endswith(word[:length])]
    return answer[: len(answer) - max(begun, default=0)].strip()


def settled_parts(
    tokens: Iterable[int], decode: Callable[[Sequence[int]], str], stop: Sequence[str]
) -> Generator[str, None, None]:
    """An answer as it comes: each part as soon as it is settled. Joined they are the clean answer.

    Args:
        tokens: The answer's ids as they come.
        decode: Ids to words.
        stop: The answer ends before the first of these words.
    """
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        settled = settled_answer(decode(ids), stop)
        if len(settled) > len(shown):
            yield settled[len(shown) :]
            shown = settled
    if rest := clean_answer(decode(ids), stop)[len(shown) :]:
        yield rest
