"""Fuzz target: tracefs format files. Any text is read, or refused with FormatError."""

from __future__ import annotations

import fuzzing

from kwire.kernel.formats import FormatError, parse_format

SEEDS = [
    b"name: sched_process_exec\nID: 361\nformat:\n"
    b"\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    b"\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
    b"\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;\n"
    b"\tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;\n\n"
    b'print fmt: "filename=%s pid=%d", __get_str(filename), REC->pid\n',
    b"name: x\nID: 1\nformat:\n\tfield:unsigned long args[6];\toffset:16;\tsize:48;\tsigned:0;\n"
    b"\tfield:const char *const *argv;\toffset:64;\tsize:8;\tsigned:0;\n"
    b"\tfield:void (*callback)(struct x *);\toffset:72;\tsize:8;\tsigned:0;\n"
    b'print fmt: "a\nb"\n',
]


def one_input(data: bytes) -> None:
    """Read one format file."""
    try:
        found = parse_format(data.decode("utf-8", "replace"))
    except FormatError:
        return
    for field in (*found.common, *found.fields):
        assert field.name.isidentifier()
        assert field.type
        assert 0 <= field.offset <= field.offset + field.size <= 1 << 16
        assert field.length is None or field.length >= 0
        assert field.declaration


if __name__ == "__main__":
    fuzzing.main(one_input, SEEDS)
