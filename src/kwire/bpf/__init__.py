"""The eBPF machine: instructions, assembler, disassembler, interpreter. Uses no other room and no kernel."""
