"""`owl answer --ray`: actors answer, on one machine or many, and the process that began it writes.

Ray Data moves record numbers to actors and their answers back. An actor that dies is replaced and asked again; nothing of it
was written. Where this process dies, the answers that arrived are in its part, as without Ray, and are not asked again. So
Ray's own checkpoints, which keep whole blocks, are not needed: one list of what is answered serves every way to share the work.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mplug_owl.errors import UserError
from mplug_owl.eval.bulk.asking import RecordAnswer, ask_all
from mplug_owl.eval.bulk.parts import Parts
from mplug_owl.eval.bulk.run import AnswerJob, compare, finish, work

# More blocks than that cost Ray's scheduler more than they save.
BLOCKS = 2000
# Ray hangs where it sees fewer (measured with ray 2.60 on two cores); its actors ask for less than a whole one.
LEAST_CPUS, CPUS_EACH = 4, 0.25
OBJECT_STORE = 200 * 10**6
FIELDS = ("record", "id", "question", "answer", "reason")


class Answerer:
    """An actor: a model and the data, opened once where it runs."""

    def __init__(self, job: AnswerJob) -> None:
        self.job, self.questions, self.model = job, job.questions(), job.answerer()

    def __call__(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        """Positions of records to their answers."""
        found = list(ask_all(self.model, self.questions, batch["data"].tolist(), self.job.decoding, self.job.window))
        return {name: [getattr(one, name) for one in found] for name in FIELDS}


def answer_on_ray(job: AnswerJob, workers: int | None = None) -> Path:
    """Answer what has no answer on the disk yet, by actors.

    Args:
        job: What is asked, of whom. Its data and model must be readable where actors run.
        workers: How many actors; one for each GPU of the cluster where None, or two.

    Raises:
        UserError: As `answer_all` does, or Ray is not installed.
        WriteError: The disk takes no more. What was answered is kept.
    """
    ray = _ray()
    questions = job.questions()
    parts = Parts(job.out, job.settings(len(questions)))
    with parts.written_by(0) as part:
        compare(questions, parts)
        share = np.flatnonzero(~parts.answered())
        if len(share):
            _begin(ray)
            try:
                work(share.tolist(), _answers(ray, job, share, workers), part, 0)
            finally:
                ray.shutdown()
    return finish(job, parts)


def _answers(ray: Any, job: AnswerJob, share: NDArray[np.int64], workers: int | None) -> Iterator[RecordAnswer]:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    size = max(job.window, -(-len(share) // BLOCKS))
    blocks = [share[begin : begin + size] for begin in range(0, len(share), size)]
    data = ray.data.from_numpy(blocks).map_batches(
        Answerer,
        fn_constructor_args=(job,),
        batch_size=None,  # a block: what is lost with an actor, and what arrives at once
        compute=ray.data.ActorPoolStrategy(size=workers or gpus or 2),
        num_cpus=None if gpus else CPUS_EACH,
        num_gpus=1 if gpus else None,
    )
    try:
        for row in data.iter_rows():
            yield RecordAnswer(*(row[name] for name in FIELDS))
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        raise


def _begin(ray: Any) -> None:
    """Join the cluster that RAY_ADDRESS names, or begin one of this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not os.environ.get("RAY_ADDRESS"):
        cpus = max(LEAST_CPUS, os.cpu_count() or 1)
        options |= {"num_cpus": cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(**options)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _ray() -> Any:
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise UserError(f"--ray needs {error.name or 'ray'}: pip install 'mplug-owl[ray]'") from error
    return ray
