"""What an owl is made of, as values: the config that travels with the weights.

Field names are the original's, so its config.json files load as they are. Swapping a module means another
sub-config: any transformers vision model, any decoder language model, one of five connectors or one's own.
"""

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from huggingface_hub.dataclasses import strict
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig

from mplug_owl.errors import UserError

# Kinds of connectors; `model.connectors.add_connector` appends those of one's own.
CONNECTOR_NAMES = ["abstractor", "linear", "mlp", "qformer", "resampler"]

Given = TypeVar("Given")
Held = TypeVar("Held")

# A field that may be given as one type and holds another once the config is made: `Resolved[dict | None, PreTrainedConfig]`.
# transformers stores what was given before `__post_init__` resolves it, and checks both by the annotation: so at run time
# the annotation is the wider type, and a type checker reads both.
if TYPE_CHECKING:

    class Resolved(Generic[Given, Held]):
        """Assigned as `Given`, read as `Held`."""

        def __get__(self, config: object, owner: type | None = None) -> Held: ...
        def __set__(self, config: object, value: Given) -> None: ...

else:

    class Resolved:
        """Assigned as the first type, read as the second."""

        def __class_getitem__(cls, types):
            """The type that transformers checks."""
            return types[0]


NOT_GIVEN: Any = None


@strict
class MplugOwlVisionConfig(PreTrainedConfig):
    """f_V, a CLIP-like ViT. Defaults are the paper's ViT-L/14 at 224 pixels: 303.18 M parameters.

    `position_initializer_range` is the spread of fresh positions, None for `initializer_range`: a tower that has minutes to
    learn sees where things are much sooner when positions start as loud as what the patches show.

    `stem_channels` puts convolutions of 3 x 3 before the patches (arXiv 2106.14881), as many as it has numbers, each halving
    height and width; the paper has none.

    Raises UserError where halves of `patch_size` do not come out even, or heads do not divide the width.
    """

    model_type = "mplug_owl_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-6  # released config.json; OpenAI's CLIP has 1e-5
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    position_initializer_range: float | None = None
    stem_channels: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs: object) -> None:
        halves = len(self.stem_channels)
        if self.patch_size % 2**halves:
            raise UserError(
                f"stem_channels: {halves} convolutions halve a patch {halves} times; patch_size {self.patch_size} is not "
                f"divisible by {2**halves}"
            )
        _refuse_uneven_heads(self)
        super().__post_init__(**kwargs)


@strict
class MplugOwlVisualAbstractorConfig(PreTrainedConfig):
    """f_K, what joins vision to language. Defaults are the released abstractor: 6 layers, inner width 2816.

    `connector` names the kind. `abstractor`, `qformer` and `resampler` have `num_query_tokens` learned queries (a field of
    `MplugOwlConfig`). The abstractor reads every field here; the other two have no dropout and torch's epsilon in every norm,
    and take any `encoder_hidden_size`. `linear` and `mlp` map each patch and read none but `connector`.

    Raises UserError for a kind that nobody has added, or heads that do not divide the width.
    """

    model_type = "mplug_owl_visual_abstract"
    base_config_key = "visual_abstractor_config"

    connector: str = "abstractor"
    hidden_size: int = 1024
    encoder_hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-6  # of the MLP's inner norm alone; the others have torch's 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: object) -> None:
        if self.connector not in CONNECTOR_NAMES:
            known = ", ".join(CONNECTOR_NAMES)
            raise UserError(f"connector {self.connector!r}: expected {known}, or one that add_connector has named before")
        if self.connector in ("abstractor", "qformer", "resampler"):
            _refuse_uneven_heads(self)
        super().__post_init__(**kwargs)


@strict
class MplugOwlConfig(PreTrainedConfig):
    """The three modules and how they meet.

    Args:
        vision_config: Of any vision encoder of transformers, as a config or a dict; by default the paper's ViT-L/14.
        visual_abstractor_config: Of the connector; by default the released abstractor's, as wide as the vision encoder.
        text_config: Of any decoder language model of transformers; by default LLaMA-7B's.
        num_query_tokens: Q, how many learned queries the connector has, where it has any.
        image_token_id: What marks the language positions that a picture fills. It defaults to the text vocabulary's size: an
            id that no text can have, so it needs no row in the embedding table.
        initializer_range: The spread of fresh weights.
        tie_word_embeddings: Left as the language model's config has it, whatever is given here.

    Raises:
        UserError: A part has a model_type that transformers does not know, or the text's is no language model's.

    Example:
        >>> from mplug_owl import MplugOwlConfig
        >>> config = MplugOwlConfig(text_config={"model_type": "opt"}, visual_abstractor_config={"connector": "mlp"})
        >>> config.text_config.model_type, config.vision_config.hidden_size, config.image_token_id
        ('opt', 1024, 50272)
    """

    model_type = "mplug-owl"
    sub_configs = {
        "vision_config": AutoConfig,
        "visual_abstractor_config": MplugOwlVisualAbstractorConfig,
        "text_config": AutoConfig,
    }

    vision_config: Resolved[dict | PreTrainedConfig | None, PreTrainedConfig] = NOT_GIVEN
    visual_abstractor_config: Resolved[dict | PreTrainedConfig | None, MplugOwlVisualAbstractorConfig] = NOT_GIVEN
    text_config: Resolved[dict | PreTrainedConfig | None, PreTrainedConfig] = NOT_GIVEN
    num_query_tokens: int = 64
    image_token_id: Resolved[int | None, int] = NOT_GIVEN
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        self.vision_config = _sub_config(self.vision_config, "vision_config", "mplug_owl_vision_model")
        self.text_config = _sub_config(self.text_config, "text_config", "llama")
        if type(self.text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"text_config: {self.text_config.model_type} is no language model that continues text")
        self.visual_abstractor_config = _abstractor_config(self.visual_abstractor_config, vision_width(self.vision_config))
        # A language model with tied embeddings says so in its own config; the original's outer field is always false.
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        if self.image_token_id is None:
            self.image_token_id = self.text_config.vocab_size
        for name in ("num_attention_heads", "num_hidden_layers"):
            # BLOOM owls carry "n_head" and "n_layer" here: names, not numbers (parity notes, section 6).
            kwargs.pop(name, None)
        super().__post_init__(**kwargs)


def _sub_config(given: dict[str, Any] | PreTrainedConfig | None, name: str, default_type: str) -> PreTrainedConfig:
    """A part's config; of a composite one (CLIP, SigLIP, Gemma 3, ...) the half that `name` says."""
    if not isinstance(given, PreTrainedConfig):
        values = dict(given or {})
        model_type = values.pop("model_type", default_type)
        try:
            given = AutoConfig.for_model(model_type, **values)
        except ValueError as error:
            raise UserError(f"{name}: model_type {model_type!r}: {error}".split(" Should be one of")[0]) from error
    return getattr(given, name, given)


def _abstractor_config(given: dict[str, Any] | PreTrainedConfig | None, vision_width: int) -> "MplugOwlVisualAbstractorConfig":
    if isinstance(given, MplugOwlVisualAbstractorConfig):
        return given
    values = dict(given.to_dict() if isinstance(given, PreTrainedConfig) else given or {})
    values.setdefault("encoder_hidden_size", vision_width)
    values.setdefault("hidden_size", values["encoder_hidden_size"])
    values.pop("model_type", None)
    return MplugOwlVisualAbstractorConfig(**values)


def _refuse_uneven_heads(config: MplugOwlVisionConfig | MplugOwlVisualAbstractorConfig) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{config.base_config_key}: hidden_size {config.hidden_size} is not divisible by its "
            f"num_attention_heads, {config.num_attention_heads}"
        )


def vision_width(vision_config: PreTrainedConfig) -> int:
    """D, how wide a vision encoder's tokens are; of one in stages, such as ConvNeXt, the last stage's width.

    Raises UserError for a config that does not say it.
    """
    width = getattr(vision_config, "hidden_size", None) or [None, *getattr(vision_config, "hidden_sizes", [])][-1]
    if width is None:
        raise UserError(f"vision_config: a {vision_config.model_type} does not say by hidden_size how wide its tokens are")
    return int(width)


def max_positions(text_config: PreTrainedConfig) -> int | None:
    """How many positions a language model was made for; None where nothing limits them, as in BLOOM."""
    return getattr(text_config, "max_position_embeddings", None)


AutoConfig.register(MplugOwlVisionConfig.model_type, MplugOwlVisionConfig)
AutoConfig.register(MplugOwlVisualAbstractorConfig.model_type, MplugOwlVisualAbstractorConfig)
AutoConfig.register(MplugOwlConfig.model_type, MplugOwlConfig)
