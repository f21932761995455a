"""One conversation with history, whoever answers."""

from collections.abc import Generator, Sequence
from contextlib import closing

from PIL import Image

from mplug_owl.chat.owl import OwlChatModel
from mplug_owl.chat.protocol import ChatModel, Decoding
from mplug_owl.conversation import Conversation, ImageSource, Picture
from mplug_owl.errors import UserError
from mplug_owl.model.images import open_image
from mplug_owl.model.load import Owl


class Chat:
    """One conversation with history. Pictures come with the question they belong to and stay in sight.

    Args:
        model: An owl, or any other ChatModel.
        conversation: Where to start, such as a system sentence of your own.
        decoding: How words are chosen.

    Example:
        >>> from mplug_owl import Chat, load
        >>> chat = Chat(load("owl-tiny"))
        >>> chat.ask("Name a red fruit.")  # doctest: +SKIP
        'cherry'
        >>> chat.ask("What colour is the circle?", images=["scene.png"])  # doctest: +SKIP
        'blue'
    """

    def __init__(
        self, model: Owl | ChatModel, conversation: Conversation | None = None, decoding: Decoding | None = None
    ) -> None:
        self.model: ChatModel = OwlChatModel(model) if isinstance(model, Owl) else model
        self.empty = conversation or Conversation(())
        self.conversation = self.empty
        self.decoding = decoding or Decoding()
        self._unanswered: list[Picture] = []  # of a question whose answer was stopped: it may be asked again

    def ask(self, question: str, images: Sequence[ImageSource] = ()) -> str:
        """The answer, once it is whole. Arguments and errors are those of `stream`."""
        return "".join(self.stream(question, images))

    def stream(self, question: str, images: Sequence[ImageSource] = ()) -> Generator[str, None, None]:
        """The answer as it comes. The history takes question and answer in when it has ended.

        Args:
            question: What the user says; it may be empty where a picture says enough.
            images: Files, bytes or opened pictures that belong to the question.

        Raises:
            BadSample: A picture cannot be opened.
            UserError: The question is no text, or the conversation is longer than the model's positions.
        """
        if not isinstance(question, str):
            raise UserError(f"the question is {question!r:.60}; expected text")
        if isinstance(images, ImageSource):
            raise UserError("images is one picture; expected a list of them, images=[...]")
        try:
            question.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError("the question holds bytes that are no UTF-8; type it again in UTF-8") from error
        opened = [open_image(image) for image in images]  # now: a bad file leaves the history as it was
        pictures = self._unanswered = [self._picture(*pair) for pair in zip(images, opened, strict=True)]
        asked = self.conversation.said("user", *pictures, *([question] if question else []))
        parts = []
        with closing(self.model.stream(asked, self.decoding)) as answer:
            for part in answer:
                parts.append(part)
                yield part
        self.conversation, self._unanswered = asked.said("assistant", "".join(parts)), []

    def _picture(self, given: ImageSource, opened: Image.Image) -> Picture:
        """A picture as it is now, whatever its owner draws on it later; the same one as before where it is asked again."""
        now = opened.copy() if opened is given else opened
        return next((known for known in self._unanswered if known.source == now), None) or Picture(now)

    def forget(self) -> None:
        """Start a new conversation."""
        self.conversation, self._unanswered = self.empty, []
