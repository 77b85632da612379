"""What can be wrong with the options, known without heavy imports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from ftcore.api import Problem, Run
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.gemma_grid.columns import names_of
from ftcore_plugins.gemma_grid.options import Options, layout_of, pan_and_scan_of
from ftcore_plugins.gemma_grid.prompt import PLACES, unknown_places

__all__ = ["problems"]

COLUMNS = ("frames", "image", "context", "question", "action")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
LARGEST_FRAME = 4096
BUILT_FOR = re.compile(r"torch\s*\(?==\s*([0-9.]+)")


def problems(config: Options, run: Run) -> list[Problem]:
    """Every mistake and every doubt."""
    found = [*missing("gemma_grid", "vision", "PIL"), *_torchvision(), *_columns(config), *_texts(config)]
    found += _layout(config)
    if not found:
        found += _without_effect(config)
    if run.profile.train.packing:
        message = "rows with images cannot be packed; set it to false, or turn gemma_grid off"
        found.append(Problem(key="train.packing", message=message))
    return found


def _columns(config: Options) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for option in COLUMNS:
        names = names_of(getattr(config, option))
        if not names or not all(name.strip() for name in names):
            yield _problem(option, "the column's name is empty; name a column of the rows")
        for name in names:
            if owners.setdefault(name, option) != option:
                yield _problem(option, f"column {name!r} is {owners[name]} as well; name another column")


def _texts(config: Options) -> Iterator[Problem]:
    if not config.action_key:
        yield _problem("action_key", "empty; name the key of the action, such as 'button'")
    if config.keys and config.action_key not in config.keys:
        yield _problem("keys", f"lack the action_key {config.action_key!r}; add it")
    for place in unknown_places(config.prompt):
        known = " and ".join(f"{{{name}}}" for name in PLACES)
        yield _problem("prompt", f"nothing fills in {{{place}}}; there are {known}")


def _layout(config: Options) -> Iterator[Problem]:
    size = config.frame_size
    if size and not (len(size) == 2 and all(1 <= side <= LARGEST_FRAME for side in size)):  # noqa: PLR2004
        yield _problem("frame_size", f"must be width and height, each from 1 to {LARGEST_FRAME}, such as [240, 160]")
    if not COLOUR.fullmatch(config.background):
        yield _problem("background", f"{config.background!r} is no colour; write one as '#rrggbb'")


def _without_effect(config: Options) -> Iterator[Problem]:
    """Of ready grids, and frames of their own size, it is said once they are seen."""
    if config.pan_and_scan and config.frame_size:
        width, height = layout_of(config).size([])
        reason = pan_and_scan_of(config).why_none(width, height)
        if reason:
            message = f"no effect on the {width}x{height} grid that frame_size makes: {reason}"
            yield _problem("pan_and_scan", message, severity="warning")


def _torchvision() -> Iterator[Problem]:
    """One that is built for another torch breaks imports of transformers, far from here."""
    try:
        torch, vision = metadata.version("torch"), metadata.version("torchvision")
        needs = "".join(metadata.requires("torchvision") or ())
    except metadata.PackageNotFoundError:
        return
    wanted, own = BUILT_FOR.search(needs), torch.partition("+")
    if (wanted and wanted[1] != own[0]) or vision.partition("+")[2] != own[2]:
        message = (
            f"torchvision {vision} is not built for torch {torch} and may break it; run: pip uninstall torchvision"
        )
        yield Problem(key="plugin.gemma_grid", message=message, severity="warning")


def _problem(option: str, message: str, *, severity: str = "error") -> Problem:
    return Problem(
        key=f"plugin.gemma_grid.{option}", message=message, severity="warning" if severity == "warning" else "error"
    )
