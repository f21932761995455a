"""Who answers under a name that a user types: our own models, any model of transformers, any server's."""

from mplug_owl.chat.address import Endpoint
from mplug_owl.chat.auto_classes import open_config
from mplug_owl.chat.endpoint import EndpointChatModel
from mplug_owl.chat.huggingface import HuggingFaceChatModel
from mplug_owl.chat.owl import OwlChatModel
from mplug_owl.chat.protocol import ChatModel
from mplug_owl.errors import UserError
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.load import load
from mplug_owl.model.quantised import Quantisation
from mplug_owl.model.small_weights import INT8, pack


def find(name: str, device: str | None = None, dtype: str = "auto", quantize: Quantisation | None = None) -> ChatModel:
    """Whoever answers under a name. Over 40 lines with its arguments.

    `dtype="int8"` and `quantize="int8"` are two things. The first is how a CPU multiplies: what comes in is rounded too, the
    head with it, and it is the quickest. The second is how weights are kept, on any device, and what `base="int8"` trains on.

    Args:
        name: What `load` opens, such as `owl-tiny`, a folder or a hub id; `hf:` and a folder or hub id for any
            image-text-to-text model of transformers; `language:` and what `Modules` takes for a language model without eyes;
            or `http://HOST/v1#MODEL`, an endpoint.
        device: Where a model that runs here goes, such as `cuda`; None takes the best there is.
        dtype: The precision of its weights: `auto` keeps the file's; `float32`, `bfloat16`, and for our own `int8`.
        quantize: The language model's linear layers in a byte each, or with nf4 in half of one, for memory; as `load` has it.

    Raises:
        UserError: There is no such model, its files do not fit, or a package that it needs is not installed.

    Example:
        >>> from mplug_owl.chat import find
        >>> find("http://localhost:8000/v1#owl").endpoint.model
        'owl'
    """
    if quantize is not None and dtype == INT8:
        raise UserError(
            f"give one of them: --dtype int8 is quickest on a CPU, --quantize {quantize} saves memory on any device"
        )
    if name.startswith(("experts:", "answers:")):
        raise UserError(f"{name}: takes exams and nothing else; owl eval asks it")
    if is_endpoint(name):
        if quantize is not None:
            raise UserError(f"{name} has the weights that its server has; leave --quantize {quantize} out")
        if device is not None:
            raise UserError(f"{name} answers where its server runs; leave --device {device} out")
        if dtype != "auto":
            raise UserError(f"{name} has the weights that its server has; leave --dtype {dtype} out")
        return EndpointChatModel(Endpoint.from_name(name))
    if name.startswith("language:"):
        _refuse_our_own_ways(name, dtype, quantize)
        from mplug_owl.chat.language import LanguageChatModel  # not above: peft takes a second that most do not need

        return LanguageChatModel.open(name.removeprefix("language:"), device, dtype)
    if name.startswith("hf:"):
        path = name.removeprefix("hf:")
        if open_config(path).model_type != MplugOwlConfig.model_type:
            _refuse_our_own_ways(name, dtype, quantize)
            return HuggingFaceChatModel.open(path, device, dtype)
        name = path
    owl = load(name, device, dtype, quantize)
    pack(owl.model)  # a bf16 model on a CPU; it answers and is never saved
    return OwlChatModel(owl)


def is_endpoint(name: str) -> bool:
    """Whether who answers under a name is a server's model, which has its device elsewhere."""
    return name.startswith(("http://", "https://"))


def _refuse_our_own_ways(name: str, dtype: str, quantize: Quantisation | None) -> None:
    """Raise UserError where somebody else's model is asked to keep its weights as only our own can."""
    if dtype == INT8:
        raise UserError(f"{name}: --dtype int8 is for our own models; expected auto, float32 or bfloat16")
    if quantize is not None:
        raise UserError(f"{name}: --quantize is for our own models; leave it out")
