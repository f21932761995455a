"""Frozen weights in bf16 while a run trains in bf16, so that autocast need not cast them at every pass.

The numbers are the same bit for bit: autocast would have rounded the same weights to the same values. What is saved is not
rounded, for every weight comes back as it was.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Layers whose weights autocast casts and nothing else reads. Norms and embeddings are computed in what they are stored in.
CAST = (nn.Linear, nn.Conv2d)


class HalfWeights:
    """Puts frozen weights of a model into bf16; `restore` brings them back, as does the end of a `with`.

    A weight that bf16 holds exactly, as those of a file in bf16, takes no memory for it: half of what it took. Another is kept
    beside, on the CPU. Weights shared with an embedding stay, and so do all where nothing is cast (`enabled` is False).
    `known` are layers whose forward pass was exchanged for one that calls their linear layers, as their own does.
    """

    def __init__(self, model: nn.Module, enabled: bool = True, known: Sequence[nn.Module] = ()) -> None:
        self.kept: list[tuple[nn.Parameter, Tensor | None]] = []
        modules = list(model.modules()) if enabled else []
        elsewhere = {id(weight) for part in modules if type(part) not in CAST for weight in part.parameters(recurse=False)}
        # What a forward put on a module by hand does with the layers inside it is not known.
        exchanged = [part for part in modules if "forward" in vars(part) and not any(part is one for one in known)]
        elsewhere |= {id(weight) for part in exchanged for weight in _children_weights(part)}
        for module in modules:
            if type(module) not in CAST:
                continue
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad and weight.dtype == torch.float32 and id(weight) not in elsewhere:
                    half = weight.data.to(torch.bfloat16)
                    exact = torch.equal(half.float(), weight.data)
                    self.kept.append((weight, None if exact else weight.data.cpu()))
                    weight.data = half

    def restore(self) -> None:
        """Every weight as it was before, on the device where it is now."""
        for weight, before in self.kept:
            weight.data = weight.data.float() if before is None else before.to(weight.device)
        self.kept.clear()

    def __enter__(self) -> "HalfWeights":
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()


def _children_weights(module: nn.Module) -> list[nn.Parameter]:
    return [weight for child in module.children() for weight in child.parameters(recurse=False)]
