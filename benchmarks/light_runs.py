"""Light runs for benchmarks: the plugins of tests/core/light, which need no torch, and a folder to run them in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))

from light_profile import LIGHT, PLUGINS

PROFILE = """\
[run]
name = "light"
output_dir = "runs"
[hardware]
profile = "cpu"
[data]
path = "rows.jsonl"
validation = 0.25
[train]
max_steps = {steps}
save_steps = {save_steps}
eval_steps = 4
[plugin.light_rows]
[plugin.light_format]
[plugin.light_model]
[plugin.light_trainer]
"""


def install(folder: Path, trackers: Iterable[str]) -> None:
    """A distribution with the light plugins, and `trackers` of these names, for this process and those it starts."""
    plugins = {**PLUGINS, **dict.fromkeys(trackers, PLUGINS["light_tracker"])}
    points = [f"{name} = {place}" for name, place in plugins.items()]
    info = folder / "light-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: light\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("\n".join(["[ftcore.plugins]", *points]) + "\n", "utf-8")
    sys.path[:0] = [str(folder), str(LIGHT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(LIGHT)])


def write_desk(folder: Path, faults: Mapping[str, str], *, steps: int, save_steps: int, more: str = "") -> None:
    """A working folder with `light.toml` and its rows. `faults` are those of the trackers, by name."""
    rows = ({"prompt": f"what is {n}?", "reply": f"{n} is {n * n}."} for n in range(12))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tables = [f'[plugin.{name}]\npath = "{name}.jsonl"\nfault = "{fault}"\n' for name, fault in faults.items()]
    text = PROFILE.format(steps=steps, save_steps=save_steps) + more + "".join(tables)
    (folder / "light.toml").write_text(text, "utf-8")
