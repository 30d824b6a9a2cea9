"""From a checked program to eBPF: record layout, typed IR, optimiser, register allocation, instructions."""
