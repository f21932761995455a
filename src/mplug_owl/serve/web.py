"""`owl serve --web`: a page to talk on. Gradio shows it; every question goes the way that an API's request goes."""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from starlette.routing import Mount

from mplug_owl.page.render import render
from mplug_owl.scenes import scene
from mplug_owl.serve.api import Server
from mplug_owl.serve.door import UPLOAD, WEB, Door, Sessions
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.protocol import RequestError

# Pictures on the disk of who left go after an hour.
KEPT_SECONDS = 3600
# Four scenes to begin with: each asks for something else, in words that owl-tiny has learned.
EXAMPLES = (
    (7, "How many triangles are there?"),
    (16, "What word is written?"),
    (10, "List the things in reading order, separated by commas."),
    (0, "Add the written numbers."),
)
TITLE = "Talk with an owl"
PICTURES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".gif": "gif"}


# Over 40 lines: all that is asked of Gradio stands in one list.
def add_page(server: Server, keys: Keys | None, drawn: Collection[str] = ()) -> None:
    """Put the page into a server's application, before its lock.

    Args:
        server: Whose models answer.
        keys: What opens the door; None lets this machine in.
        drawn: Models that know the drawn world: the page draws scenes for them.
    """
    folder = tempfile.mkdtemp(prefix="owl-web-")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}  # read when Gradio is imported
    gradio = import_module("gradio")
    _fetch_nothing(gradio)
    page = Page(server, gradio, Path(folder), drawn)
    _sweep_at_the_end(server, folder)
    server.routes = gradio.mount_gradio_app(
        server.routes,
        page.blocks(leave=keys is not None),
        path=WEB,
        root_path=WEB,
        allowed_paths=[],
        blocked_paths=[],
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=[],
        max_file_size=server.limits.media.file_bytes,
        theme=_theme(gradio),
        head=f"<style>{render('serve/web.css.jinja')}</style>",  # as `css=`, Gradio would rewrite its selectors
    )
    (mounted,) = (route for route in server.routes.routes if isinstance(route, Mount) and route.path == WEB)
    stop: Any = getattr(mounted.app, "stop_event", None)  # each open page has a request that ends by this alone
    if stop is not None:
        server.endless.append(stop.set)
    server.guard.forms = (UPLOAD,)
    server.app = Door(server.guard, None if keys is None else Sessions(keys))


def _fetch_nothing(gradio: Any) -> None:
    """Have Gradio fetch no file whose address a browser names in place of one that it sent."""

    async def refused(*_: object, **__: object) -> Any:
        raise gradio.Error("pictures are sent; this page fetches none", print_exception=False)

    processing: Any = import_module("gradio.processing_utils")
    processing.async_ssrf_protected_download = processing.async_ssrf_protected_get = refused


def _sweep_at_the_end(server: Server, folder: str) -> None:
    """Have a server remove the browsers' pictures when it ends."""
    begin = server.routes.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        try:
            async with begin(app) as state:
                yield state
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    server.routes.router.lifespan_context = lifespan


class Page:
    """The chat's page.

    Args:
        server: Who answers.
        gradio: The module, which only this page needs.
        folder: Where the browser's pictures lie.
        drawn: Models that know the drawn world.
    """

    def __init__(self, server: Server, gradio: Any, folder: Path, drawn: Collection[str]) -> None:
        self.server, self.gradio, self.folder, self.drawn = server, gradio, folder, drawn
        self.random = Random()
        type(self).answer.__annotations__["request"] = gradio.Request  # by which Gradio knows what to give there

    def blocks(self, leave: bool) -> Any:
        """What Gradio shows: a conversation, a line to write in, and what goes with it. Over 40 lines: it is what is shown."""
        gr, names, limits = self.gradio, list(self.server.desks), self.server.limits.answers
        model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, filterable=False)
        length = gr.Slider(
            1,
            limits.most_tokens,
            min(limits.default_tokens, limits.most_tokens),
            step=1,
            label="Longest answer, in tokens",
        )
        warmth = gr.Slider(0, 2, limits.temperature, step=0.1, label="Temperature: 0 picks the likeliest word")
        textbox = gr.MultimodalTextbox(
            file_count="multiple",
            file_types=["image"],
            sources=["upload"],
            placeholder="Ask, and add pictures.",
            show_label=False,
            stop_btn=True,
            max_plain_text_length=20_000,
            elem_id="ask",
        )
        chatbot = gr.Chatbot(
            show_label=False,
            buttons=["copy"],
            allow_tags=False,
            feedback_options=None,
            group_consecutive_messages=False,  # grouped with a picture, words cannot be edited (Gradio 6.31)
            height="auto",
            elem_id="talk",
            placeholder=render("serve/web_welcome.jinja", drawn=bool(self.drawn)),
        )
        chat = _chat(gr)(
            self.answer,
            multimodal=True,
            textbox=textbox,
            chatbot=chatbot,
            editable=True,
            additional_inputs=[model, length, warmth],
            additional_inputs_accordion=gr.Accordion("How it answers", open=False, render=False),
            examples=[[example, None, None, None] for example in self.examples()] or None,
            run_examples_on_click=False,
            cache_examples=False,
            analytics_enabled=False,
            concurrency_limit=None,  # the engine's queue is the limit
            delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
            api_visibility="private",
            show_progress="hidden",
            fill_height=False,
        )
        for event in chat.fns.values():
            if event.name == "_edit_message":  # the browser's conversation has lost the pictures by then
                event.inputs = [chat.chatbot_state]
        chat.title = TITLE  # of the window; as an argument it would be a heading, too
        with chat:
            self._extras(textbox, leave)
        return chat

    def _extras(self, textbox: Any, leave: bool) -> None:
        """A camera, a drawn scene, and a way out."""
        gr = self.gradio
        with gr.Row(elem_id="more"):
            if self.drawn:
                gr.Button("Draw me a scene", size="sm").click(
                    self.draw, textbox, textbox, show_progress="hidden", queue=False, api_visibility="private"
                )
            shoot = gr.Button("Camera", size="sm")
            if leave:
                gr.Button("Leave", size="sm", link=f"{WEB}/leave", link_target="_self", elem_id="leave")
        camera = gr.Image(
            sources=["webcam"], type="filepath", show_label=False, visible=False, elem_id="camera", webcam_options=None
        )
        shoot.click(lambda: gr.update(visible=True), None, camera, queue=False, api_visibility="private")
        camera.input(
            lambda asked, taken: (_with(asked, taken), gr.update(visible=False, value=None)),
            [textbox, camera],
            [textbox, camera],
            queue=False,
            api_visibility="private",
        )

    def examples(self) -> list[dict[str, Any]]:
        """What one may begin with: scenes where somebody knows them, else nothing."""
        return [{"text": words, "files": [self._scene(number)]} for number, words in EXAMPLES] if self.drawn else []

    def draw(self, asked: Mapping[str, Any] | None) -> dict[str, Any]:
        """What is being asked, with one more scene."""
        return _with(asked, self._scene(self.random.randrange(2**31)))

    def _scene(self, number: int) -> str:
        file = self.folder / f"scene-{number}.png"
        scene(number).draw().save(file)
        return str(file)

    async def answer(
        self,
        message: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
        model: str,
        length: int,
        warmth: float,
        request: Any = None,
    ) -> AsyncIterator[str]:
        """The answer so far, again and again as it grows. Whoever stops it has the engine stop within a token."""
        fields = {"model": model, "max_tokens": int(length), "temperature": float(warmth), "stream": True}
        try:
            if (pictures := _pictures(message, history)) > (most := self.server.limits.media.pictures):
                raise RequestError(413, f"{pictures} pictures in one conversation; at most {most} are read")
            body = await asyncio.to_thread(_body, fields, message, history, self.folder)  # pictures may have 160 MB
            with self.server.guard.holding(len(body)):
                reply = await self.server.answer(body, request.request.scope["state"]["owner"])
            del body
            said = ""
            async for part in reply.answering.parts():
                said += part.new
                yield said
        except RequestError as error:
            raise self.gradio.Error(error.message, duration=None, print_exception=False) from None
        finally:
            if "reply" in locals():
                reply.answering.cancel()
                self.server.took(model, reply.answering)


def _chat(gradio: Any) -> Any:
    """Gradio's chat, which keeps a question's pictures when its words are edited; its own forgets them (6.31)."""

    class Chat(gradio.ChatInterface):
        def _edit_message(self, history: list[Any], edited: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
            at = edited.index[0] if isinstance(edited.index, list | tuple) else edited.index
            parts = history[at]["content"] if isinstance(history[at]["content"], list) else []
            files = [part["file"]["path"] for part in parts if isinstance(part, Mapping) and part.get("type") == "file"]
            return history[:at], history[:at], {"text": edited.value, "files": files}

    Chat._edit_message.__annotations__["edited"] = gradio.EditData  # by which Gradio knows what to give there
    return Chat


def _pictures(message: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> int:
    """How many pictures a conversation has, counted before one is read: a browser may name a file a thousand times."""
    said = [one for turn in history for one in (turn["content"] if isinstance(turn["content"], list) else [turn["content"]])]
    shown = [one for one in said if not isinstance(one, str) and one.get("type") != "text"]
    return len(message.get("files") or ()) + len(shown)


def _body(fields: Mapping[str, Any], message: Mapping[str, Any], history: Sequence[Mapping[str, Any]], folder: Path) -> bytes:
    """A question as a request to the interface."""
    return json.dumps({**fields, "messages": [*_messages(history, folder), _asked(message, folder)]}).encode()


def _asked(message: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What is asked now, pictures first."""
    pictures = [_picture(file, folder) for file in message.get("files") or ()]
    words = str(message.get("text") or "")
    return {"role": "user", "content": [*pictures, *([{"type": "text", "text": words}] if words else [])]}


def _messages(history: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What was said before, in OpenAI's words."""
    messages: list[dict[str, Any]] = []
    for said in history:
        content = said["content"] if isinstance(said["content"], list) else [said["content"]]
        parts = [_part(one, folder) for one in content]
        if said["role"] == "assistant":
            messages.append({"role": "assistant", "content": "".join(part.get("text", "") for part in parts)})
        else:
            messages.append({"role": "user", "content": parts})
    return messages


def _part(one: Any, folder: Path) -> dict[str, Any]:
    if isinstance(one, str):
        return {"type": "text", "text": one}
    if one.get("type") == "text":
        return {"type": "text", "text": str(one.get("text", ""))}
    file = one.get("file", one)
    return _picture(file.get("path") if isinstance(file, Mapping) else file, folder)


def _picture(file: Any, folder: Path) -> dict[str, Any]:
    """A picture that this browser sent, as a request has it. Raises RequestError where it is no file of this page's folder."""
    path = Path(str(file["path"] if isinstance(file, Mapping) else file)).resolve()
    kind = PICTURES.get(path.suffix.lower())
    if not path.is_relative_to(folder.resolve()) or kind is None or not path.is_file():
        raise RequestError(400, "a picture cannot be read; expected JPEG, PNG, WebP or GIF")
    packed = base64.b64encode(path.read_bytes()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{packed}"}}


def _with(asked: Mapping[str, Any] | None, picture: str | None) -> dict[str, Any]:
    """What is being asked, with one more picture."""
    before = asked or {}
    return {"text": before.get("text") or "", "files": [*(before.get("files") or ()), *([picture] if picture else [])]}


def _theme(gradio: Any) -> Any:
    """Gradio's plainest, with fonts of the reader's machine: the colours are ours, in the page's style."""
    return gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], radius_size="lg")
