"""Our owls in vLLM, through its Transformers backend: the plug-in that its entry point loads, and what a folder needs for it.

vLLM reads prompts as text and gives each program's tokenizer the last word, so a folder for it has `<image>` among its tokens
and a chat template of its own, `vllm.jinja`, beside the one that our own doors use.
"""

from pathlib import Path
from typing import Any

import transformers

from mplug_owl.conversation import IMAGE_MARK
from mplug_owl.errors import UserError
from mplug_owl.model.encoder import CHAT_TEMPLATE
from mplug_owl.model.load import load_processor
from mplug_owl.model.locate import locate
from mplug_owl.model.template_additions import is_prepared
from mplug_owl.model.template_tokens import control_tokens
from mplug_owl.writing import replacing, writing

TEMPLATE = "vllm.jinja"


def register() -> None:
    """What vLLM calls in each of its processes, maybe twice: transformers knows the owl, by the name that vLLM looks up."""
    from mplug_owl.model.owl import MplugOwlForConditionalGeneration

    made: Any = transformers
    made.MplugOwlForConditionalGeneration = MplugOwlForConditionalGeneration


def prepare(folder: Path) -> Path:
    """Give an owl's folder what vLLM needs, beside what is there; returns the chat template's file.

    The folder stays one of ours: `owl chat` reads from it the ids that it read before.

    Raises:
        UserError: It is no owl's folder in our layout, or its tokenizer has another token where pictures' positions are marked.
        WriteError: It cannot be written.
    """
    where = Path(locate(folder))
    processor = load_processor(where)
    tokenizer = processor.tokenizer
    image = processor.image_token_id
    if IMAGE_MARK not in tokenizer.get_vocab():  # rows of the table that no token has get names, so that it is the next one
        tokenizer.add_tokens([f"<|unused_{number}|>" for number in range(len(tokenizer), image)])
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_MARK]})
    if (found := tokenizer.convert_tokens_to_ids(IMAGE_MARK)) != image:
        raise UserError(
            f"{where}: {IMAGE_MARK} would be token {found}, and the model marks pictures by {image}; convert it again"
        )
    with writing(where):
        tokenizer.save_pretrained(where)
        with replacing(where / TEMPLATE) as file:
            file.write_text(template_of(processor.chat_template, tokenizer), encoding="utf-8")
    return where / TEMPLATE


def template_of(template: object, tokenizer: Any) -> str:
    """The chat template for vLLM. It writes the begin token of the original's prompt.

    What people typed is broken where it spells a token: a typed `</s>` becomes `< /s>`, for to vLLM it would be the token.
    """
    if not isinstance(template, str) or not (template == CHAT_TEMPLATE or is_prepared(template)):
        raise UserError("the chat template is neither the original's format nor a language model's own as owls keep it")
    tokens = sorted({*control_tokens(tokenizer, template), *tokenizer.all_special_tokens, IMAGE_MARK}, key=len, reverse=True)
    broken = "".join(f" | replace({token!r}, {f'{token[0]} {token[1:]}'!r})" for token in tokens if len(token) > 1)
    lines = [
        "{%- set safe = namespace(messages=[], parts=[]) -%}",
        "{%- for message in messages -%}",
        "    {%- set safe.parts = [] -%}",
        "    {%- if message.content is string -%}",
        f"        {{%- set safe.parts = [{{'type': 'text', 'text': message.content{broken}}}] -%}}",
        "    {%- else -%}",
        "        {%- for part in message.content -%}",
        "            {%- if part.type == 'text' -%}",
        f"                {{%- set safe.parts = safe.parts + [{{'type': 'text', 'text': part.text{broken}}}] -%}}",
        "            {%- else -%}",
        "                {%- set safe.parts = safe.parts + [part] -%}",
        "            {%- endif -%}",
        "        {%- endfor -%}",
        "    {%- endif -%}",
        "    {%- set safe.messages = safe.messages + [dict(message, content=safe.parts)] -%}",
        "{%- endfor -%}",
        "{%- set messages = safe.messages -%}\n",
    ]
    begin = "{{- bos_token -}}\n" if template == CHAT_TEMPLATE else ""
    return "\n".join(lines) + begin + template
