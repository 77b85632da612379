"""What a person sees of a run: a live view in a terminal, plain lines elsewhere, or nothing; objects for programs."""

from ftcore.display.base import Display, Silent, Steady
from ftcore.display.choosing import MODES, can_move, choose_display, is_terminal
from ftcore.display.plain import Clock, Plain, figures

__all__ = [
    "MODES",
    "Clock",
    "Display",
    "Plain",
    "Silent",
    "Steady",
    "can_move",
    "choose_display",
    "figures",
    "is_terminal",
]
