"""Chat templates of real language models, and for each a small tokenizer made as the family's own is.

The templates' sources are in chat_templates/README.md. The tokenizers have each family's special tokens, its treatment of
spaces, and merges across the borders of a template's words and typed ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).with_name("chat_templates")
# GPT-4's split, which Llama 3, Qwen and most of today's have; line breaks stay with the space around them.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = [
    "What is this? A cat. And this one? Two dogs on a mat.\n\nHello there, hello! user\nassistant\nsystem\nmodel\n",
    "[INST] Be brief. [/INST] A red cat, a blue dog. [INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat? [/INST] A dog.",
    "GPT4 Correct User: hello GPT4 Correct Assistant: hello\n\n\n  \n Cutting Knowledge Date: December 2023\nToday Date: ",
] * 4
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

Kind = Literal["bytes", "metaspace", "prepend", "gemma"]


@dataclass(frozen=True)
class Family:
    """A template, and what its tokenizer is like."""

    name: str
    bos: str | None
    eos: str
    special: tuple[str, ...]
    kind: Kind = "bytes"
    words: tuple[str, ...] = ()  # added tokens that are not special, such as Qwen's <think>
    takes_space: bool = False  # Phi 3's special tokens take the space after them
    ends: str | None = None  # what closes an answer; None for `eos`
    system: bool = True  # whether the template knows system messages
    thinks: bool = False

    @property
    def template(self) -> str:
        """The family's own chat template."""
        return (FOLDER / f"{self.name}.jinja").read_text("utf-8")


_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>")
_PHI3 = ("<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
_MISTRAL7 = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]")
_DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
FAMILIES = (
    Family("qwen2_5", None, "<|im_end|>", CHATML),
    Family("qwen3", None, "<|im_end|>", CHATML, words=("<think>", "</think>", "<tool_call>"), thinks=True),
    Family("llama2", "<s>", "</s>", ("<unk>", "<s>", "</s>"), "prepend"),
    Family("llama3", "<|begin_of_text|>", "<|end_of_text|>", _LLAMA3, ends="<|eot_id|>"),
    Family("llama3_2", "<|begin_of_text|>", "<|eot_id|>", _LLAMA3, ends="<|eot_id|>"),
    Family("gemma", "<bos>", "<eos>", _GEMMA, "gemma", words=("\n\n", "▁▁"), ends="<end_of_turn>", system=False),
    Family("gemma3", "<bos>", "<eos>", _GEMMA, "gemma", words=("\n\n", "▁▁"), ends="<end_of_turn>"),
    Family("phi3", "<s>", "<|endoftext|>", _PHI3, "prepend", takes_space=True, ends="<|end|>"),
    Family("phi4", "<|endoftext|>", "<|im_end|>", (*CHATML, "<|im_sep|>")),
    Family("mistral", "<s>", "</s>", ("<unk>", "<s>", "</s>"), "metaspace"),
    Family("mistral_v7_tekken", "<s>", "</s>", _MISTRAL7),
    Family("smollm2", "<|im_start|>", "<|im_end|>", CHATML),
    Family("zephyr", "<s>", "</s>", ("<unk>", "<s>", "</s>"), "metaspace"),
    Family("deepseekv3", _DEEPSEEK[0], _DEEPSEEK[1], _DEEPSEEK, words=("<think>", "</think>")),
    Family("lfm2", "<|startoftext|>", "<|im_end|>", ("<|pad|>", "<|startoftext|>", *CHATML)),
    Family("falcon_h1", "<|begin_of_text|>", "<|im_end|>", ("<|begin_of_text|>", *CHATML)),
    Family("exaone", "[BOS]", "[|endofturn|]", ("[BOS]", "[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]")),
    Family("starling", "<s>", "<|end_of_turn|>", ("<unk>", "<s>", "</s>", "<|end_of_turn|>"), "metaspace"),
    Family("yi", None, "<|im_end|>", CHATML),
)
BY_NAME = {family.name: family for family in FAMILIES}


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """The family's small tokenizer, which has its chat template; a new one each time."""
    special = [AddedToken(token, special=True, normalized=False, rstrip=family.takes_space) for token in family.special]
    words = [AddedToken(token, special=False, normalized=False) for token in family.words]
    made = Tokenizer.from_str(_learned(family.kind))
    made.add_special_tokens(special)
    made.add_tokens(words)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.special[0],
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


@cache
def _learned(kind: Kind) -> str:
    """A tokenizer without special tokens, as text."""
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(TEXT, _trainer(600, pre_tokenizers.ByteLevel.alphabet()))
        return made.to_str()
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁\n]+|▁+|\n+"), "isolated")
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    made.train_from_iterator(TEXT, _trainer(600, [], pieces))
    values = json.loads(made.to_str())
    made = Tokenizer.from_str(json.dumps({**values, "added_tokens": []}))  # bytes are entries, not added tokens
    made.pre_tokenizer = None
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    if kind == "metaspace":
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    elif kind == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made.to_str()


def _trainer(entries: int, alphabet: Sequence[str], special: Sequence[str] = ()) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=entries, initial_alphabet=list(alphabet), special_tokens=list(special), show_progress=False, min_frequency=1
    )
