"""A connector of one's own: the picture's average, said in four language positions."""

import torch
from torch import Tensor, nn

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration


class Average(nn.Module):
    """Vision tokens [I, P, D] to language positions [I, 4, E]."""

    num_tokens = 4

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        self.say = nn.Linear(config.vision_config.hidden_size, 4 * config.text_config.hidden_size)

    def forward(self, patches_IPD: Tensor) -> Tensor:
        return self.say(patches_IPD.mean(1)).unflatten(-1, (4, -1))


class AverageOwl(MplugOwlForConditionalGeneration):
    """An owl that sees with it; everything else stays."""

    def build_connector(self, config: MplugOwlConfig) -> nn.Module:
        return Average(config)


small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
owl = AverageOwl(MplugOwlConfig(vision_config={**small, "image_size": 28}, text_config={**small, "vocab_size": 100}))
ids = torch.tensor([[1, *[owl.config.image_token_id] * owl.num_image_tokens, 5, 6]])
print(owl(input_ids=ids, pixel_values=torch.randn(1, 3, 28, 28)).logits.shape)
