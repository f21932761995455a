"""What an owl writes above a language model's chat template, so that any program renders its prompts alike."""

import re

from mplug_owl.conversation import IMAGE_MARK

# How our additions to a template begin, so that it is known when they are there.
_ADDED = "{#- Added by mPLUG-Owl: "
# Some templates write the day on which they run. A prompt must be the same tomorrow, so it is always this one (Llama 3's own).
_DAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%A": "Friday", "%H": "12", "%M": "00", "%S": "00"}
# Switches of templates that can let the model think before it answers. An answer here is the answer alone.
_THINKING = ("enable_thinking", "thinking")


def additions(template: str, merged: bool = False, drops_empty: bool = False) -> str:
    """What goes above a template. It ends where a line begins, so that nothing of the template's own space changes.

    `merged` puts a system message's words in front of the first question, `drops_empty` leaves an empty one out.
    """
    lines = [
        f"{_ADDED}pictures as {IMAGE_MARK}, and what keeps a prompt the same for whoever renders it. -#}}",
        "{%- set owl = namespace(messages=[]) -%}",
        "{%- for message in messages -%}",
        "    {%- set owl.content = message.content -%}",
        "    {%- if message.content is not string -%}",
        "        {%- set owl.content = '' -%}",
        "        {%- for part in message.content or [] -%}",
        f"            {{%- set owl.content = owl.content + (part.text if part.type == 'text' else '{IMAGE_MARK}') -%}}",
        "        {%- endfor -%}",
        "    {%- endif -%}",
        "    {%- set owl.messages = owl.messages + [dict(message, content=owl.content)] -%}",
        "{%- endfor -%}",
    ]
    if merged or drops_empty:
        lines += [
            "{%- if owl.messages and owl.messages[0].role == 'system' and not owl.messages[0].content -%}",
            "    {%- set owl.messages = owl.messages[1:] -%}",
            "{%- endif -%}",
        ]
    if merged:
        lines += [
            "{%- if owl.messages[1:] and owl.messages[0].role == 'system' -%}",
            "    {%- set owl.content = owl.messages[0].content + '\\n\\n' + owl.messages[1].content -%}",
            "    {%- set owl.messages = [dict(owl.messages[1], content=owl.content)] + owl.messages[2:] -%}",
            "{%- endif -%}",
        ]
    for name in _THINKING:
        if re.search(rf"\b{name}\b", template):
            lines.append(f"{{%- set {name} = {name} if {name} is defined else false -%}}")
    if "strftime_now" in template:
        day = "".join(f" | replace('{code}', '{value}')" for code, value in _DAY.items())
        lines.append(f"{{%- macro strftime_now(format) -%}}{{{{ format{day} }}}}{{%- endmacro -%}}")
    lines.append("{%- set messages = owl.messages %}\n")
    return "\n".join(lines)


def is_prepared(template: object) -> bool:
    """Whether it is a template that `with_pictures` gave."""
    return isinstance(template, str) and template.startswith(_ADDED)
