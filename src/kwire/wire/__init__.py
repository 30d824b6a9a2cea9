"""The protocol: frames, their errors, schemas, LOST messages, and columns of events. No input, no output, no clock."""
