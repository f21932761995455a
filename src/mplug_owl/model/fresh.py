"""What starts from nothing: a tokenizer learned from texts, attention that looks for what is like itself, new tokens' rows."""

import re
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
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


@torch.no_grad()
def add_rows(language: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give tokens that were added to a tokenizer a row in embedding table and head, the mean of the rows there; how many.

    Padding alone needs none, for nobody reads it. With the mean, a new token is at first neither likely nor unlikely
    (nlp.stanford.edu/~johnhew/vocab-expansion.html). The rows are the language model's: they are saved with it, and learn where
    it learns in full.
    """
    old, new = cast(nn.Embedding, language.get_input_embeddings()).num_embeddings, len(tokenizer)
    above = (tokenizer.convert_ids_to_tokens(token) for token in range(old, new))
    if all(token in (None, tokenizer.pad_token) for token in above):
        return 0
    language.resize_token_embeddings(new, mean_resizing=False)
    for table in (language.get_input_embeddings(), language.get_output_embeddings()):
        for weight in table.parameters(recurse=False):  # a tied one gets the same mean twice
            weight[old:] = weight[:old].mean(0, dtype=torch.float32)
    return new - old


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
