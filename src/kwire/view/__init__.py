"""What a person or a program sees of frames: tables, JSON lines, values as text, conditions on fields."""
