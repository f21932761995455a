"""The tokenizer of the LLaMA owls, sentencepiece by the rules of the original's time, and what any tokenizer must agree on.

Stock transformers 5 reads the same file by other rules and gets 8 of 35 awkward strings wrong.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from mplug_owl.conversation import IMAGE_MARK
from mplug_owl.errors import UserError
from mplug_owl.model.config import MplugOwlConfig

# What transformers' tokenizers are saved as, one of these at least.
FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


class MplugOwlTokenizer(SentencePieceBackend):
    """Splits on special tokens, then gives every part its own leading space, as transformers 4.28's slow LLaMA did.

    Adds neither the begin nor the end token; the processor places them.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **kwargs: object) -> None:
        for token, default in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<unk>")):
            kwargs[token] = kwargs.get(token) or default
        for given in ("add_bos_token", "add_eos_token", "legacy", "clean_up_tokenization_spaces"):
            kwargs.pop(given, None)
        super().__init__(vocab_file=vocab_file, legacy=True, clean_up_tokenization_spaces=False, **kwargs)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Pieces to text, special tokens as they are written.

        A special token after words puts a space before those words and none after them: 4.28 does, so decoded text is equal.
        """
        text, words = "", list[str]()
        for token in tokens:
            if token in self.all_special_tokens:
                text += (" " if words else "") + self.sp_model.decode(words) + token
                words = []
            else:
                words.append(token)
        return text + self.sp_model.decode(words)


def refuse_missing(folder: Path, config: MplugOwlConfig) -> None:
    """Raises UserError where a folder has no tokenizer's file: transformers would make up a tokenizer of three entries."""
    if folder.is_dir() and not any((folder / name).is_file() for name in FILES):
        missing = FILES[0] if config.text_config.model_type == "llama" else FILES[1]
        raise UserError(f"{folder}: no {missing} in it; copy the tokenizer's files from where the weights came from")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: MplugOwlConfig, where: str) -> None:
    """A tokenizer beside a model: it fills the model's vocabulary, stays in it, and leaves the pictures' id alone.

    Padding alone may have an id above the vocabulary, as in many a fine-tuned LLaMA: nobody reads it.
    Raises UserError that names `where` and what would be right.
    """
    entries, vocabulary, image = len(tokenizer), config.text_config.vocab_size, config.image_token_id
    if 2 * entries < vocabulary:
        raise UserError(
            f"{where}: its tokenizer has {entries} entries and the model a vocabulary of {vocabulary}; "
            f"expected the tokenizer that the language model was trained with"
        )
    if image < vocabulary or (image < entries and tokenizer.convert_ids_to_tokens(image) != IMAGE_MARK):
        name = f", which is {tokenizer.convert_ids_to_tokens(image)!r} in the tokenizer" if image < entries else ""
        raise UserError(
            f"{where}: image_token_id is {image}{name}; expected an id outside the vocabulary of {vocabulary} and the "
            f"tokenizer's {entries} entries: write {max(vocabulary, entries)} into config.json and processor_config.json"
        )
    above = [tokenizer.convert_ids_to_tokens(token) for token in range(vocabulary, entries) if token != image]
    if strangers := [token for token in above if token not in (None, tokenizer.pad_token)]:
        raise UserError(
            f"{where}: its tokenizer has {strangers[0]!r}, above the model's vocabulary of {vocabulary}; resize the model's "
            "embeddings or take the token away"
        )


AutoTokenizer.register(MplugOwlConfig, MplugOwlTokenizer)
