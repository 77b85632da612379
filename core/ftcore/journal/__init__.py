"""What a run writes down while it runs, line by line: the truth that displays, trackers and reports are made from."""
