"""One process of the runs that `test_processes.py` starts: python -m tests.train.worker DATA OUT [recipe fields as JSON]."""

import json
import sys
from pathlib import Path

from mplug_owl.train.run import start
from tests.school import lesson, lessons, quietly

if __name__ == "__main__":
    data, out, fields = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    resume = fields.pop("resume", False)
    sources = lessons(data, "chat", "text")
    recipe = lesson(batch=8, micro_batch=1, steps=4, **fields)
    quietly(recipe, start(recipe, sources), sources, out, resume=resume)
