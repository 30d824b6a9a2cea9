"""Captures: frames in pcapng files. Writing, reading, proving complete."""
