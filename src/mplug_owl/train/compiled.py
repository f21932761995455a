"""torch.compile for a run: half a minute of compiling, then a third off each step of the language model on a CPU."""

import os
import shutil

from torch import nn

from mplug_owl.errors import UserError

COMPILERS = ("c++", "g++", "clang++", "cl")


def compile_language_model(language_model: nn.Module, device: str) -> None:
    """Compile in place, for rows of any length; names of weights stay as they are.

    The encoder is left as it is: torch 2.13 fails on its convolutions where the number of pictures varies. Raises UserError
    where a CPU has no C++ compiler to do it with.
    """
    named = os.environ.get("CXX")
    if device == "cpu" and not any(shutil.which(name) for name in ([named] if named else COMPILERS)):
        raise UserError(
            f"compile: needs a C++ compiler, and this machine has no {named or ', '.join(COMPILERS)}; "
            "install one (Debian: apt install g++) or --set compile=false"
        )
    language_model.compile(dynamic=True)
