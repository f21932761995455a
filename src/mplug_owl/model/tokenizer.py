"""The tokenizer of the LLaMA owls: sentencepiece by the rules of the original's time.

Stock transformers 5 reads the same file by other rules and gets 8 of 35 awkward strings wrong.
"""

from typing import Any

from transformers import AutoTokenizer
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from mplug_owl.model.config import MplugOwlConfig


class MplugOwlTokenizer(SentencePieceBackend):
    """Splits on special tokens, then gives every part its own leading space, as transformers 4.28's slow LLaMA did.

    Adds neither the begin nor the end token; the processor places them.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        for token, default in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<unk>")):
            kwargs[token] = kwargs.get(token) or default
        for given in ("add_bos_token", "add_eos_token", "legacy", "clean_up_tokenization_spaces"):
            kwargs.pop(given, None)
        super().__init__(vocab_file=vocab_file, legacy=True, clean_up_tokenization_spaces=False, **kwargs)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Pieces to text, special tokens as they are written.

        A special token after words puts a space in front of those words, not behind them: 4.28 does, so decoded text is equal.
        """
        text, words = "", list[str]()
        for token in tokens:
            if token in self.all_special_tokens:
                text += (" " if words else "") + self.sp_model.decode(words) + token
                words = []
            else:
                words.append(token)
        return text + self.sp_model.decode(words)


AutoTokenizer.register(MplugOwlConfig, MplugOwlTokenizer)
