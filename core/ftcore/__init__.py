"""Fine-tune language and vision-language models from a profile; everything else is a plugin.

from ftcore import load_profile, run

outcome = run(load_profile("profile.toml"))
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take it for; importing typing would double the time of --help
if TYPE_CHECKING:
    from typing import Any

    from ftcore.engine import run
    from ftcore.preflight import load_profile

__all__ = ["__version__", "load_profile", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that `ftcore --help` imports neither attrs nor pluggy.
    if name == "run":
        from ftcore.engine import run

        return run
    if name == "load_profile":
        from ftcore.preflight import load_profile

        return load_profile
    raise AttributeError(f"module 'ftcore' has no attribute {name!r}")
