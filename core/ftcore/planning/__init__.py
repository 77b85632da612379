"""What a run will need, before anything but the model's configuration is read: memory, disk and time."""
