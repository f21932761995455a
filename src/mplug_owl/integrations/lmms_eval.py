"""An owl as a model of lmms-eval 0.7: `lmms-eval eval --model mplug_owl --model_args pretrained=owl-tiny`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from mplug_owl.chat import Decoding, OwlChatModel, arriving
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.integrations.lmms_tasks import failing_loudly
from mplug_owl.model.load import load

# So many batches of requests have their pictures in memory at once.
BATCHES_AT_ONCE = 4


@dataclass
class _Talk:
    """One request on its way: its messages of this round, and what was answered in the rounds before."""

    request: Instance
    document: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    answers: list[str] = field(default_factory=list)
    info: Any = None

    @property
    def ask(self) -> Callable[..., Any]:
        """The task's `doc_to_messages`."""
        ask: Callable[..., Any] = self.request.args[1]
        return ask


class MplugOwl(lmms):
    """One of our models, asked many requests at once, in one process or several.

    Args:
        pretrained: What `mplug_owl.load` opens: a folder, a run, an adapter, owl-tiny, a name on the hub.
        device: Where the model is; by default the accelerator of this process.
        batch_size: How many requests are answered at once; anything that is no number (`auto`) is 32.
        dtype: As `mplug_owl.load` takes it.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "owl-tiny",
        device: str | None = None,
        batch_size: int | str = 32,
        dtype: str = "auto",
        **unknown: object,
    ) -> None:
        super().__init__()
        unknown.pop("max_batch_size", None)  # lmms-eval gives it to every model
        with failing_loudly():
            if unknown:
                raise UserError(f"model_args {next(iter(unknown))}: unknown; expected pretrained, device, batch_size or dtype")
            self.accelerator = Accelerator()
            chosen = self.accelerator.device if self.accelerator.num_processes > 1 and device in (None, "cuda") else device
            self.model = OwlChatModel(load(pretrained, chosen, dtype), int(batch_size) if str(batch_size).isdigit() else 32)
        self.device = torch.device(self.model.model.device)
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer to each request, in their order."""
        return [answers[0] for answers in self._rounds(requests, several=False)]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """All answers of each request, as many rounds as its task wants."""
        return self._rounds(requests, several=True)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not for a model that answers in words: tasks of this kind end with an error."""
        with failing_loudly():
            raise UserError("an owl answers in words; choose tasks with output_type generate_until, not loglikelihood")

    def _rounds(self, requests: Sequence[Instance], several: bool) -> list[list[str]]:
        """The answers to each request, round by round: all first rounds of a stretch of requests, then all second ones."""
        done: list[list[str]] = []
        stretch = BATCHES_AT_ONCE * self.model.batch_size
        with failing_loudly(), tqdm(total=len(requests), disable=self._rank != 0, desc="answers") as progress:
            for first in range(0, len(requests), stretch):
                talks = [self._talk(request) for request in requests[first : first + stretch]]
                waiting = talks
                while waiting:
                    self._answer(waiting)
                    waiting = [talk for talk in waiting if several and _goes_on(talk)]
                done += [talk.answers for talk in talks]
                progress.update(len(talks))
        return done

    def _talk(self, request: Instance) -> _Talk:
        _, ask, _, number, task, split = request.args
        document = self.task_dict[task][split][number]
        return _Talk(request, document, ask(document))

    def _answer(self, talks: Sequence[_Talk]) -> None:
        """One more answer for each, those that want the same decoding together."""
        groups: dict[Decoding, list[_Talk]] = {}
        for talk in talks:
            groups.setdefault(decoding_of(talk.request.args[2]), []).append(talk)
        for decoding, group in groups.items():
            conversations = [
                Conversation.from_chat(talk.messages, f"{talk.request.args[4]}, document {talk.request.args[3]}")
                for talk in group
            ]
            for position, answer in arriving(self.model, conversations, decoding):
                group[position].answers.append(answer)


def decoding_of(options: Mapping[str, Any]) -> Decoding:
    """A task's generation_kwargs as a Decoding. A task that asks for beams gets the likeliest token, as one beam would."""
    until = options.get("until") or ()
    temperature = options.get("temperature")
    draws = bool(options.get("do_sample", temperature))
    return Decoding(
        max_new_tokens=int(options.get("max_new_tokens") or options.get("max_gen_toks") or 256),
        temperature=float(1.0 if temperature is None else temperature) if draws else 0.0,
        top_p=float(options.get("top_p") or 1.0) if draws else 1.0,
        stop=tuple(word for word in ((until,) if isinstance(until, str) else until) if word),
        repetition_penalty=float(options.get("repetition_penalty") or 1.0),
    )


def _goes_on(talk: _Talk) -> bool:
    """Whether the task has another round for this request; then its messages are that round's."""
    said = talk.ask(
        talk.document,
        round_idx=len(talk.answers),
        previous_output=list(talk.answers),
        previous_round_info=talk.info,
    )
    if not (isinstance(said, tuple) and len(said) == 4):
        return False
    talk.messages, ended, _, talk.info = said
    return not ended
