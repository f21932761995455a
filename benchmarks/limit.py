"""The products that a step cannot do without, at their own shapes and with weights of their own, as plain torch matmuls.

What is left out: whatever is no product, and products whose result nobody needs. A frozen layer has no gradient of its weights;
what has nothing to learn in front of it has none of its inputs either. Attention is counted whole, its causal half too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.baseline import PICTURE, VOCABULARY, Step

WIDTH, HEADS, HEAD = 768, 12, 64
TOKENS = 257  # of a picture: 16 x 16 patches and a class token
QUERIES = PICTURE - 1  # the end vector is learned as it is
VISION, ABSTRACTOR, LANGUAGE = 12, 6, 12  # layers


class Products:
    """A list of products that are made one after another."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.made: list[Callable[[], object]] = []
        self.kept: dict[tuple[int, ...], Tensor] = {}

    def __call__(self) -> None:
        for one in self.made:
            one()

    def states(self, *shape: int) -> Tensor:
        """What flows between layers: one tensor a shape."""
        if shape not in self.kept:
            self.kept[shape] = torch.randn(*shape).to(self.dtype)
        return self.kept[shape]

    def linear(self, rows: int, inside: int, out: int, inputs: bool = False, weights: bool = False) -> None:
        """Forward, and backward to the inputs and to the weights where they are asked for."""
        weight_OI = torch.randn(out, inside).to(self.dtype)
        states_RI, gradient_RO = self.states(rows, inside), self.states(rows, out)
        self.made.append(lambda: torch.mm(states_RI, weight_OI.t()))
        if inputs:
            self.made.append(lambda: torch.mm(gradient_RO, weight_OI))
        if weights:
            self.made.append(lambda: torch.mm(gradient_RO.t(), states_RI))

    def attention(self, batch: int, queries: int, keys: int, backward: bool = False) -> None:
        """Scores and mix, and on the way back two products for each."""
        rows = batch * HEADS
        query, key, scores = self.states(rows, queries, HEAD), self.states(rows, keys, HEAD), self.states(rows, queries, keys)
        self.made.append(lambda: torch.bmm(query, key.transpose(1, 2)))
        self.made.append(lambda: torch.bmm(scores, key))
        if backward:
            self.made.append(lambda: torch.bmm(query, key.transpose(1, 2)))  # of the weights
            self.made.append(lambda: torch.bmm(scores, key))  # of the queries
            self.made.append(lambda: torch.bmm(scores.transpose(1, 2), query))  # of the keys
            self.made.append(lambda: torch.bmm(scores.transpose(1, 2), query))  # of the values

    def looking(self, pictures: int, learns: bool = False) -> None:
        """f_V and f_K."""
        rows = pictures * TOKENS
        self.linear(pictures * (TOKENS - 1), 3 * 14 * 14, WIDTH, weights=learns)
        for _ in range(VISION):
            for inside, out in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)):
                self.linear(rows, inside, out, learns, learns)
            self.attention(pictures, TOKENS, TOKENS, learns)
        rows, seen = pictures * QUERIES, pictures * (QUERIES + TOKENS)
        for _ in range(ABSTRACTOR):
            for many, inside, out in (
                (rows, WIDTH, WIDTH),
                (seen, WIDTH, WIDTH),
                (seen, WIDTH, WIDTH),
                (rows, WIDTH, WIDTH),
                (rows, WIDTH, 2048),
                (rows, WIDTH, 2048),
                (rows, 2048, WIDTH),
            ):
                self.linear(many, inside, out, learns, learns)
            self.attention(pictures, QUERIES, QUERIES + TOKENS, learns)
        self.linear(rows, WIDTH, WIDTH, learns, learns)

    def reading(self, lengths: tuple[int, ...], backward: bool = False, lora: bool = False) -> None:
        """f_L: `lora` learns at queries and values, so that nothing in front of the first layer needs a gradient."""
        rows = sum(lengths)
        for layer in range(LANGUAGE):
            in_front = backward and not (lora and layer == 0)
            for out in (WIDTH, WIDTH, WIDTH):  # queries, keys, values
                self.linear(rows, WIDTH, out, in_front)
            if lora:
                for _ in range(2):
                    self.linear(rows, WIDTH, 8, in_front, True)
                    self.linear(rows, 8, WIDTH, True, True)
            for inside, out in ((WIDTH, WIDTH), (WIDTH, 2048), (WIDTH, 2048), (2048, WIDTH)):
                self.linear(rows, inside, out, backward)
            for length in sorted(set(lengths)):
                self.attention(lengths.count(length), length, length, backward)


def step_limit(step: Step, precision: str) -> Products:
    """A training step's products."""
    made = Products(torch.bfloat16 if precision == "bf16" else torch.float32)
    lora = step.trainable.language == "lora"
    made.looking(len(step.lengths), learns=not lora)
    made.reading(step.lengths, backward=True, lora=lora)
    made.linear(step.rows, WIDTH, VOCABULARY, inputs=True)
    return made


def look_limit(pictures: int, precision: str) -> Products:
    """The products of looking at so many pictures."""
    made = Products(torch.bfloat16 if precision == "bf16" else torch.float32)
    made.looking(pictures)
    return made


def words_limit(batch: int, words: int, precision: str) -> Products:
    """Looking, reading a prompt of 128, the head at its end, and then a word at a time with the same weights."""
    made = look_limit(batch, precision)
    made.reading((128,) * batch)
    made.linear(batch, WIDTH, VOCABULARY)
    one = Products(made.dtype)
    for _ in range(LANGUAGE):
        for inside, out in ((WIDTH, WIDTH),) * 4 + ((WIDTH, 2048), (WIDTH, 2048), (2048, WIDTH)):
            one.linear(batch, inside, out)
        one.attention(batch, 1, 128 + words // 2)
    one.linear(batch, WIDTH, VOCABULARY)
    made.made += [one] * (words - 1)
    return made
