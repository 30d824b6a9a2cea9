"""Constants that are wanted often, in registers that nothing else wants."""

from kwire.compile.builder import Builder
from kwire.compile.ir import REACH, At
from kwire.compile.kept_constants import keep_constants


def test_an_address_is_kept_only_for_what_instructions_reach_from_it() -> None:
    for far, kept in ((8, True), (REACH, False), (REACH - 1, True)):
        b = Builder(0)
        for at in (0, far, 0, far):
            b.store(b.emit("mapval", [], ("map", at)), 0, 8, 1)
        function = b.finish(b.function.entry)
        keep_constants(function, [6], [])
        made = [ins for block in function.blocks for ins in block.body]
        assert [ins.op for ins in made].count("mapval") == (1 if kept else 4)
        stored = {ins.args[0].offset for ins in made if ins.op == "store" and isinstance(ins.args[0], At)}
        assert stored == ({0, far} if kept else {0})
