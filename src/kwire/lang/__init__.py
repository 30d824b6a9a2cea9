"""What people write becomes one checked program: front ends, one syntax tree, one checker.

Invariant: a front end knows only its own syntax and gives a `tree.Probe`; names, types and every
diagnostic about them belong to `check`; what leaves the room is a `checked.Program`, in which nothing is
left to decide but how to compute it.
"""
