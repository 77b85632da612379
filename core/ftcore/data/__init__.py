"""From raw rows to tokens that are proved: read, split, format in batches, keep, check."""
