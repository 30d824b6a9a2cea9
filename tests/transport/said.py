"""Who keeps what people are told: the lines, and the event of each."""

from __future__ import annotations


class Said(list[str]):
    """The lines; to be called where somebody tells them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __call__(self, text: str, event: str = "note", /) -> None:
        self.append(text)
        self.events.append(event)
