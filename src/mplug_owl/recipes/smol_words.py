"""owl-smol's first lesson, before the paper's two stages: f_K learns to write what it sees in the language model's own words.

    python -m mplug_owl.recipes.smol_words runs/smol.words

Each query has one word to write: five for each of the nine places, such as `top left small red circle`, or fifteen for a row
with something written in it. It learns to come close to that word's embedding. The language model computes nothing for it, so a
step costs a thirtieth of one of stage 1, and a frozen language model reads such a picture at once.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mplug_owl.errors import UserError
from mplug_owl.model.build import Modules, build
from mplug_owl.model.load import Owl, load
from mplug_owl.scenes.things import COLOURS, PLACES, SHAPES, SIZES
from mplug_owl.scenes.world import Scene, scene
from mplug_owl.train.optim import clip_gradients, make_optimizer
from mplug_owl.train.recipe import Optimizer, Schedule
from mplug_owl.train.schedule import learning_rate, set_learning_rate
from mplug_owl.writing import replacing, writing

FILLER = ","
QUERIES = 45
STEPS, BATCH = 1000, 32
SAVE_EVERY, LOG_EVERY = 250, 50
OPTIMIZER = Optimizer(lr=1.5e-3, weight_decay=0.01, betas=(0.9, 0.98), muon=True)  # tiny.pretrain's
SCHEDULE = Schedule(warmup_steps=30)
# How sharply distances are told apart: chosen once, nothing else was tried.
SHARPNESS = 8.0


def words_of(shown: Scene) -> list[str]:
    """The words of the queries, place by place in reading order: 45, each one token of the language model.

    What is written stands letter by letter, as ` H`, and digits as `7`.
    """
    words: list[str] = []
    for row, cells in enumerate(PLACES):
        if written := [writing for writing in shown.writings if writing.row == row]:
            letters = [letter if letter.isdigit() else f" {letter}" for letter in written[0].text]
            kind = " number" if written[0].is_number else " word"
            words += [kind, *letters, *[FILLER] * (11 - len(letters)), *_row(row)]
            continue
        things = {thing.column: thing for thing in shown.things if thing.row == row}
        for column, cell in enumerate(cells):
            thing = things.get(column)
            words += _cell(cell)
            words += [f" {thing.size}", f" {thing.colour}", f" {thing.shape}"] if thing else [" empty", FILLER, FILLER]
    return words


def vocabulary() -> list[str]:
    """Every word that a query may have to write."""
    cells = {word for row in PLACES for cell in row for word in _cell(cell)}
    rows = {word for row in range(3) for word in _row(row)}
    letters = [f" {chr(code)}" for code in range(ord("A"), ord("Z") + 1)]
    things = [f" {word}" for word in (*SIZES, *COLOURS, *SHAPES, "empty", "word", "number")]
    return sorted({*cells, *rows, *letters, *things, *"0123456789", FILLER})


def _row(row: int) -> list[str]:
    return [" at", " the", (" top", " middle", " bottom")[row]]


def _cell(cell: str) -> list[str]:
    words = [f" {word}" for word in cell.split()]
    return words if len(words) == 2 else [" the", *words]


@dataclass(frozen=True)
class Words:
    """The vocabulary's embeddings [K, E], each word's number, and the mean square distance between two words."""

    embeddings_KE: Tensor  # noqa: N815
    number: dict[str, int]
    spread: Tensor

    @classmethod
    def of(cls, owl: Owl) -> "Words":
        """Those of an owl's language model. Raises UserError where a word is no token of its own."""
        words = vocabulary()
        ids = owl.processor.tokenizer(words, add_special_tokens=False)["input_ids"]
        unknown = owl.processor.tokenizer.unk_token_id
        if broken := [word for word, tokens in zip(words, ids, strict=True) if len(tokens) != 1 or tokens == [unknown]]:
            raise UserError(f"the language model has no token of its own for {broken}; f_K cannot learn to write these words")
        table = owl.model.get_input_embeddings().weight.detach().float()
        embeddings_KE = table[torch.tensor(ids)[:, 0]]
        number = {word: index for index, word in enumerate(words)}
        return cls(embeddings_KE, number, torch.cdist(embeddings_KE, embeddings_KE).square().mean())

    def loss(self, visual_IQE: Tensor, shown: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Loss, and which queries came closest to their own word [I, Q].

        The loss is cross entropy over how close each word is, and the square distance to the right one.
        """
        targets_IQ = torch.tensor([[self.number[word] for word in words_of(one)] for one in shown])
        known_K = self.embeddings_KE.square().sum(-1)
        away_IQK = visual_IQE.square().sum(-1, keepdim=True) - 2 * visual_IQE @ self.embeddings_KE.T + known_K
        away_IQK = away_IQK / self.spread
        told_apart = cross_entropy(-SHARPNESS * away_IQK.flatten(0, 1), targets_IQ.flatten())
        distance = away_IQK.gather(-1, targets_IQ[..., None]).mean()
        return told_apart + distance, away_IQK.argmin(-1) == targets_IQ


def start(modules: Modules, eyes: str = "owl-tiny") -> Owl:
    """An owl whose f_V and whose f_K's layers are those of a trained one; queries and projection are fresh."""
    owl, trained = build(modules, (), 0), load(eyes, device="cpu", dtype="float32").model.model
    owl.model.model.vision_tower.load_state_dict(trained.vision_tower.state_dict())
    abstractor = owl.model.model.abstractor
    abstractor.layers.load_state_dict(trained.abstractor.layers.state_dict())
    table = owl.model.get_input_embeddings().weight.detach()
    words = Words.of(owl)
    with torch.no_grad():  # the projection begins among the words, and a picture ends as a sentence does
        abstractor.visual_fc.weight.mul_(words.embeddings_KE.std())
        abstractor.visual_fc.bias.copy_(words.embeddings_KE.mean(0))
        abstractor.vit_eos.copy_(table[owl.processor.tokenizer(".", add_special_tokens=False)["input_ids"][0]])
    return owl


def learn(owl: Owl, out: Path, steps: int = STEPS) -> list[float]:
    """Teach an owl's f_V and f_K the words; returns the share of right words every `LOG_EVERY` steps, as log.txt has them.

    A step is a function of its number, and `out/checkpoint.pt` has what the next one needs, so a call continues.
    """
    words, model, file = Words.of(owl), owl.model, out / "checkpoint.pt"
    vision, abstractor = model.model.vision_tower, model.model.abstractor
    model.requires_grad_(False)
    for parameter in (*vision.parameters(), *abstractor.parameters()):
        parameter.requires_grad_(parameter is not abstractor.vit_eos)
    optimizer, done, shares = make_optimizer(model, OPTIMIZER), 0, list[float]()
    out.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        saved = torch.load(file, weights_only=True)
        vision.load_state_dict(saved["vision"])
        abstractor.load_state_dict(saved["abstractor"])
        optimizer.load_state_dict(saved["optimizer"])
        done = int(saved["step"])
    right = list[Tensor]()
    for number in range(done, steps):
        set_learning_rate(optimizer, learning_rate(OPTIMIZER.lr, SCHEDULE, number, steps))
        loss, hits_IQ = words.loss(*seen(owl, drawn(number)))
        torch.autograd.backward(loss)
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        right.append(hits_IQ.float().mean())
        if (number + 1) % LOG_EVERY == 0:
            shares.append(float(torch.stack(right).mean()))
            right.clear()
            print(f"step {number + 1} of {steps}: loss {float(loss):.4f}, {100 * shares[-1]:.2f} % of words right", flush=True)
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == steps:
            state = {"vision": vision.state_dict(), "abstractor": abstractor.state_dict(), "optimizer": optimizer.state_dict()}
            with writing(file), replacing(file) as unfinished:
                torch.save({**state, "step": number + 1}, unfinished)
    return shares


def drawn(step: int) -> list[Scene]:
    """The scenes of a step: as captions have them, and every second one full of letters."""
    random = Random(f"words {step}")
    return [scene(random.randrange(2**48), "letters" if index % 2 else "seen") for index in range(BATCH)]


def seen(owl: Owl, shown: Sequence[Scene]) -> tuple[Tensor, Sequence[Scene]]:
    """What f_K makes of the scenes' pictures, without the end vector [I, Q, E], and the scenes."""
    pixels = owl.processor.image_processor([one.draw() for one in shown])["pixel_values"]
    pixels_ICSS = pixels if isinstance(pixels, Tensor) else torch.stack(list(pixels))
    with torch.autocast("cpu", torch.bfloat16):
        patches_IPD = owl.model.model.vision_tower(pixels_ICSS).last_hidden_state
        visual_INE = owl.model.model.abstractor(patches_IPD)
    return visual_INE[:, :-1].float(), shown


def main() -> None:
    """Learn, or continue to, and write the owl into the folder named on the command line."""
    from mplug_owl.recipes.smol import OWL_SMOL  # which imports QUERIES from here

    out = Path(sys.argv[1])
    owl = start(OWL_SMOL)
    learn(owl, out)
    owl.model.eval().save_pretrained(out / "model")
    owl.processor.save_pretrained(out / "model")
    print(out / "model")


if __name__ == "__main__":
    main()
