"""Position and direction encodings."""
