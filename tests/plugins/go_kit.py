"""As much of Go's text/template as the templates of Modelfiles use, to see what Ollama would write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]


def execute(template: str, messages: Sequence[Message]) -> str:
    """What Ollama writes for a conversation, whose system prompts it gives besides, put together."""
    pieces = re.split(r"\{\{ (.*?) \}\}", template)
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    machine = Machine(pieces, {"$": {"System": system, "Messages": list(messages)}, ".": {"System": system}})
    machine.block(0, write=True)
    return "".join(machine.written)


class Machine:
    """Texts stand at even places, actions at odd ones."""

    def __init__(self, pieces: Sequence[str], names: dict[str, Any]) -> None:
        self.pieces = pieces
        self.names = names
        self.written: list[str] = []

    def block(self, place: int, *, write: bool) -> int:
        """Run from a place on to the `else` or `end` that closes the block, and give its place."""
        while place < len(self.pieces):
            if place % 2 == 0:
                if write:
                    self.written.append(self.pieces[place])
            elif self.pieces[place].startswith(("else", "end")):
                return place
            else:
                place = self.action(place, write=write)
            place += 1
        return place

    def action(self, place: int, *, write: bool) -> int:
        text = self.pieces[place]
        if text.startswith("if "):
            return self.choice(place, text.removeprefix("if "), write=write)
        if text.startswith("range "):
            return self.loop(place, write=write)
        if assigned := re.fullmatch(r"(\$\w+) :?= (.*)", text):
            if write:
                self.names[assigned[1]] = self.value(assigned[2])
        elif write:
            self.written.append(str(self.value(text)))
        return place

    def choice(self, place: int, condition: str, *, write: bool) -> int:
        taken = write and bool(self.value(condition))
        end = self.block(place + 1, write=taken)
        if self.pieces[end].startswith("else if "):
            return self.choice(end, self.pieces[end].removeprefix("else if "), write=write and not taken)
        if self.pieces[end] == "else":
            return self.block(end + 1, write=write and not taken)
        return end

    def loop(self, place: int, *, write: bool) -> int:
        end = self.block(place + 1, write=False)
        outside = self.names["."]
        for number, message in enumerate(self.names["$"]["Messages"] if write else ()):
            self.names["$i"] = number
            self.names["."] = {"Role": message["role"], "Content": message["content"]}
            self.block(place + 1, write=True)
        self.names["."] = outside
        return end

    def value(self, text: str) -> Any:
        if text in ("true", "false"):
            return text == "true"
        if text == "eq (len (slice $.Messages $i)) 1":
            return len(self.names["$"]["Messages"][self.names["$i"] :]) == 1
        if text.startswith("not "):
            return not self.value(text.removeprefix("not "))
        if compared := re.fullmatch(r'eq (\.\w+) "(\w+)"', text):
            return self.value(compared[1]) == compared[2]
        return self.names["."][text[1:]] if text.startswith(".") else self.names[text]
