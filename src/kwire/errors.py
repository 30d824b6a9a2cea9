"""The root of every error kwire raises.

Invariant: an error says what was being done (operation), to what (subject), why it failed (cause) and what
to do about it (cure), in one line, and carries these as data. Rooms derive their own classes from
`KwireError` and add fields (an errno, a source span, a frame offset); the command line prints `str(error)`
and nothing else.
"""

from kwire.hints import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class KwireError(Exception):
    """Something a user can understand and act on.

    `operation`: a verb phrase ("load program"); `subject`: the object it was done to; `cause`: why it
    failed; `cure`: what to do, may be empty when there is nothing to do. What is found by a search, such as
    the nearest names, is given as a function, which is called when somebody asks.
    """

    def __init__(
        self, operation: str, subject: str, cause: str, cure: "str | Callable[[], str]" = ""
    ) -> None:
        super().__init__(operation, subject, cause, "" if callable(cure) else cure)
        self.operation = operation
        self.subject = subject
        self.cause = cause
        self._cure = cure

    @property
    def cure(self) -> str:
        """What to do."""
        if callable(self._cure):
            self._cure = self._cure()
        return self._cure

    @cure.setter
    def cure(self, text: str) -> None:
        self._cure = text

    def __reduce__(self) -> Any:
        """What another process is told: no function."""
        self._cure = self.cure
        return super().__reduce__()

    def __str__(self) -> str:
        head = " ".join(part for part in (self.operation, self.subject) if part)
        text = f"{head}: {self.cause}"
        return f"{text}; {self.cure}" if self.cure else text

    @property
    def detail(self) -> str:
        """Everything there is to know, for `-v`: by default the same one line."""
        return str(self)
