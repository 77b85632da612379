"""What tuning found, as a hardware profile."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import tomli_w

from ftcore.errors import ProfileError
from ftcore.files import replace_text
from ftcore.hardware import Machine, own_folders
from ftcore.preflight import LoadedProfile
from ftcore.profile import Table
from ftcore.tuning.search import Try

OPENING = "# Tuned by ftcore tune"
# What names the machine or other files: `auto` must not take one model's micro-batch for every model.
LEFT_OUT = {("hardware", "profile"), ("hardware", "card"), ("hardware", "accelerate_config"), ("train", "batch_size")}


def default_output(loaded: LoadedProfile) -> Path:
    """In the person's own folder, by the names of the profile and of the machine's hardware profile."""
    *below, _, _ = loaded.source.layers
    machine = "_".join(layer.file.stem for layer in below if layer.file)
    name = re.sub(r"[^\w-]+", "-", f"{loaded.run_name}_{machine}".strip("_"))
    return own_folders()[0] / f"{name}.toml"


def require_free(output: Path) -> None:
    """Raises `ProfileError` when `output` is a file that tuning did not write, no `.toml`, or cannot be written."""
    if output.suffix != ".toml":
        raise ProfileError(f"--output {output}: a hardware profile ends in .toml")
    try:
        theirs = output.exists() and not output.read_text("utf-8", errors="replace").startswith(OPENING)
    except OSError as error:
        raise ProfileError(f"--output {output}: {error.strerror}") from None
    if theirs:
        raise ProfileError(f"{output} is there already, and tuning did not write it; name another file with --output")
    folder = next(path for path in output.absolute().parents if path.exists())
    try:  # now, and not after an hour of tries
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ProfileError(f"--output {output}: cannot be written: {error.strerror}") from None


def hardware_profile(loaded: LoadedProfile, machine: Machine, best: Try) -> str:
    """The hardware profile that the tries ran with, and the micro-batch that they found, as TOML."""
    tables: Table = {}
    settings = loaded.settings()
    *below, _, _ = loaded.source.layers
    for layer in below:
        for name in layer.tables:
            _take(tables, settings, layer.tables, (name,))
    tables.setdefault("train", {})["micro_batch_size"] = best.rows
    card = f"{len(machine.cards)} x {machine.cards[0]}" if machine.cards else machine.chip or machine.architecture
    memory = f", {best.memory:.2f} GiB at its peak" if best.memory else ""
    speed = f", {best.speed:.0f} trained tokens a second" if best.speed else ""
    heading = f"{OPENING} for {loaded.run_name} on {card}: {best.rows} rows at once{memory}{speed}."
    return f"{heading}\n{tomli_w.dumps(tables)}"


def write(output: Path, text: str) -> None:
    """Write it whole. Raises `ProfileError` when the folder cannot be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, text)
    except OSError as error:
        raise ProfileError(f"--output {output}: cannot be written: {error.strerror}") from None


def _take(tables: Table, settings: Any, written: Any, key: tuple[str, ...]) -> None:
    """Into `tables`, of what a hardware profile has `written` below `key`, the values that were in force."""
    name = key[-1]
    if key in LEFT_OUT or name not in settings:
        return
    value = settings[name]
    if isinstance(written[name], dict) and isinstance(value, dict):
        inner = tables.setdefault(name, {})
        for part in written[name]:
            _take(inner, value, written[name], (*key, part))
    else:
        tables[name] = value
