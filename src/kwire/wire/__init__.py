"""The protocol: frames and their errors, schemas, LOST, columns. No input, no output, no clock."""
