"""Wireshark: the dissector in Lua, what it is made of, installing it, the table of filter names."""
