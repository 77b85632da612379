"""What the streaming merge says no to."""

from __future__ import annotations


class RefusedError(Exception):
    """This is merged through PEFT instead; the message is the reason, as the end of a sentence with "because"."""
