"""What starts from nothing: a tokenizer learned from texts, and attention that begins by looking for what is like itself."""

import re
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mplug_owl.conversation import SYSTEM_PROMPT
from mplug_owl.errors import UserError

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")


def look_for_alike(language: PreTrainedModel) -> None:
    """Let keys begin as copies of the queries: a word's attention goes to the same word before anything is learned.

    Trained attention often looks so (arXiv 2305.09828). Raises UserError where keys have other sizes than queries.
    """
    found = {name: module for name, module in language.named_modules() if name.endswith((".q_proj", ".k_proj"))}
    if not found:
        raise UserError(f"alike: {language.config.model_type} has no q_proj and k_proj")
    for name, queries in found.items():
        keys = found[name.removesuffix("q_proj") + "k_proj"] if name.endswith("q_proj") else queries
        if keys.weight.shape != queries.weight.shape:
            shapes = f"{[*queries.weight.shape]} and its keys {[*keys.weight.shape]}"
            raise UserError(f"alike: {name} is {shapes}; heads must pair up")
        keys.load_state_dict(queries.state_dict())


def learn_tokenizer(texts: Iterable[str], entries: int, phrases: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of at most `entries` entries: nothing that can be typed is unknown to it.

    A stretch of text gets a space in front, as LLaMA's tokenizer gives it, so a word is the same token in a sentence and as an
    answer. Words in capitals are spelled letter by letter, so that one that is read in a picture need not have been met before.
    What every conversation repeats, its opening and its roles, may become one token, and so may each of `phrases`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(" "), normalizers.Replace(Regex(r"\A (?=\s)"), "")])
    whole = [r"\nHuman:", r"\nAI: ?", *(rf" ?{re.escape(phrase)}\b" for phrase in phrases), rf" ?{re.escape(SYSTEM_PROMPT)}"]
    stretches = "|".join([*whole, " ?[A-Z](?=[A-Z])", r" ?\w+", r"\s+", r"[^\s\w]+"])
    split = pre_tokenizers.Split(Regex(stretches), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
