"""Find the largest micro-batch that fits, and the fastest, by trying."""
