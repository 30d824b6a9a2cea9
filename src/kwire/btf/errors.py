"""What can go wrong with BTF: it is damaged (`BtfError`) or it lacks what was asked for (`BtfLookupError`).

Invariant: whatever bytes are read as BTF, no other exception leaves the room `btf`.
"""

from kwire.errors import KwireError


class BtfError(KwireError):
    """BTF that cannot be read: `offset` is the byte of the blob where it goes wrong (None: no one place)."""

    def __init__(self, subject: str, cause: str, offset: int | None = None, cure: str = "") -> None:
        where = "" if offset is None else f" at byte {offset}"
        super().__init__("read BTF of", subject, f"{cause}{where}", cure)
        self.offset = offset


class BtfLookupError(BtfError):
    """Sound BTF without the type, function or member asked for; `name` is what was asked."""

    def __init__(self, subject: str, name: str, cause: str, cure: str = "") -> None:
        super().__init__(subject, cause, None, cure)
        self.operation = "look up in BTF of"
        self.name = name
