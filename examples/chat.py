"""Ask an owl about a picture, then ask on: python examples/chat.py MODEL PICTURE"""

import sys

from mplug_owl.chat import Chat, load

model, picture = sys.argv[1:]
chat = Chat(load(model))
print(chat.ask("What is in the picture?", images=[picture]))
for word in chat.stream("Tell me more."):
    print(word, end="", flush=True)
print()
