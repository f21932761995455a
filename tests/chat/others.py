"""Other people's models made tiny: random weights, bytes as tokens, and folders as their authors lay them out."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny import shaken, tiny_tokenizer

POSITIONS = 2048
_WIDTHS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": POSITIONS}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
_QFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "encoder_hidden_size": 16,
}
# The templates on the hub, of llava-1.5-7b-hf, Idefics3-8B-Llama3 and Qwen2-VL-2B-Instruct (without tools and videos).
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS = (
    "<|begin_of_text|>{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(*marks: str, eos: str = "</s>", bos: str = "<s>") -> PreTrainedTokenizerFast:
    made = tiny_tokenizer()
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    made.eos_token, made.bos_token = eos, bos
    return made


def llama(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    ids = {**_IDS, "eos_token_id": words.eos_token_id}
    return {
        "model_type": "llama",
        "vocab_size": len(words),
        "intermediate_size": 32,
        "num_key_value_heads": 1,
        **_WIDTHS,
        **ids,
    }


def llava(folder: Path) -> None:
    words = tokenizer("<image>")
    image = words.convert_tokens_to_ids("<image>")
    vision = {"model_type": "clip_vision_model", **_VISION, "patch_size": 14}
    config = LlavaConfig(vision_config=vision, text_config=llama(words), image_token_index=image, image_token_id=image)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    _save(LlavaForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)


def blip2(folder: Path) -> None:
    words = tokenizer("<image>")
    opt = {"model_type": "opt", "vocab_size": len(words), "ffn_dim": 32, "word_embed_proj_dim": 24, **_WIDTHS, **_IDS}
    config = Blip2Config(
        vision_config={**_VISION, "patch_size": 14},
        qformer_config={**_QFORMER, "vocab_size": 30},
        text_config=opt,
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    _save(Blip2ForConditionalGeneration(config), folder)
    Blip2Processor(BlipImageProcessorPil(size={"height": 28, "width": 28}), words, num_query_tokens=4).save_pretrained(folder)


def instructblip(folder: Path, text_config: dict[str, Any] | None = None) -> None:
    words, queries = tokenizer("<image>"), tokenizer()
    config = InstructBlipConfig(
        vision_config={**_VISION, "patch_size": 14},
        qformer_config={**_QFORMER, "vocab_size": len(queries)},
        text_config=text_config or llama(words),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pictures = BlipImageProcessorPil(size={"height": 28, "width": 28})
    _save(InstructBlipForConditionalGeneration(config), folder)
    InstructBlipProcessor(pictures, words, queries, num_query_tokens=4).save_pretrained(folder)


def instructblip_t5(folder: Path) -> None:
    """With an encoder and a decoder, as instructblip-flan-t5-xl."""
    t5 = {"model_type": "t5", "vocab_size": len(tokenizer("<image>")), "d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2}
    instructblip(folder, {**t5, "num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0})


def idefics3(folder: Path) -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    words, config = _split_pictures(Idefics3Config)
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    _save(Idefics3ForConditionalGeneration(config), folder)
    Idefics3Processor(pictures, words, image_seq_len=4, chat_template=IDEFICS).save_pretrained(folder)


def smolvlm(folder: Path) -> None:
    """SmolVLM's processor sees videos too."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    words, config = _split_pictures(SmolVLMConfig)
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    _save(SmolVLMForConditionalGeneration(config), folder)
    _write(folder, words, pictures, "SmolVLMImageProcessor", "SmolVLMProcessor", IDEFICS, image_seq_len=4)


def qwen2_vl(folder: Path) -> None:
    words, shared = _qwen()
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 24, "num_heads": 2, "mlp_ratio": 2, "patch_size": 7}
    _save(Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, **shared)), folder)
    _write(folder, words, _qwen_pictures(), "Qwen2VLImageProcessor", "Qwen2VLProcessor", QWEN)


def qwen2_5_vl(folder: Path) -> None:
    words, shared = _qwen()
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "patch_size": 7}
    config = Qwen2_5_VLConfig(vision_config={**vision, "window_size": 28, "fullatt_block_indexes": [1]}, **shared)
    _save(Qwen2_5_VLForConditionalGeneration(config), folder)
    _write(folder, words, _qwen_pictures(), "Qwen2VLImageProcessor", "Qwen2_5_VLProcessor", QWEN)


MODELS = {
    made.__name__: made for made in (llava, blip2, instructblip, instructblip_t5, idefics3, smolvlm, qwen2_vl, qwen2_5_vl)
}


def _save(model: Any, folder: Path) -> None:
    torch.manual_seed(1)
    shaken(model, 0.3)
    model.save_pretrained(folder)


def _write(folder: Path, words: Any, pictures: Any, pictures_kind: str, kind: str, template: str, **fields: Any) -> None:
    """The files of a processor that cannot be made here, where torchvision is not."""
    words.save_pretrained(folder)
    pictures.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "image_processor_type": pictures_kind, "processor_class": kind}))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind, **fields}))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def _split_pictures(config: Any) -> tuple[PreTrainedTokenizerFast, Any]:
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    marks = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|begin_of_text|>")
    words = tokenizer(*marks, *cells, eos="<end_of_utterance>", bos="<|begin_of_text|>")
    image = words.convert_tokens_to_ids("<image>")
    vision = {**_VISION, "patch_size": 7}
    return words, config(vision_config=vision, text_config=llama(words), image_token_id=image, scale_factor=2, pad_token_id=0)


def _qwen() -> tuple[PreTrainedTokenizerFast, dict[str, Any]]:
    marks = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    words = tokenizer(*marks, eos="<|im_end|>")
    named = {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
    }
    text = llama(words)
    del text["model_type"]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(mark) for name, mark in named.items()}
    return words, {"text_config": text, **ids}


def _qwen_pictures() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(patch_size=7, size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
