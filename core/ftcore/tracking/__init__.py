"""Trackers, each in a process of its own that reads the run's journal: whatever becomes of one, the run goes on."""
