"""A profile of the light plugins, which need no torch: a whole run takes milliseconds."""

from __future__ import annotations

from pathlib import Path

LIGHT = Path(__file__).resolve().parents[1] / "core" / "light"

PLUGINS = {
    "light_diary": "light_plugins:LightDiary",
    "light_export": "light_plugins:LightExport",
    "light_format": "light_plugins:LightFormat",
    "light_hub": "light_plugins:LightHub",
    "light_launch": "light_plugins:LightLaunch",
    "light_model": "light_plugins:LightModel",
    "light_pack": "light_plugins:LightPack",
    "light_reference": "light_plugins:LightReference",
    "light_rows": "light_plugins:LightRows",
    "light_score": "light_plugins:LightScore",
    "light_tracker": "light_trackers:LightTracker",
    "light_trainer": "light_plugins:LightTrainer",
}

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
max_steps = 10
save_steps = 3
eval_steps = 4

[plugin.light_rows]

[plugin.light_format]

[plugin.light_model]

[plugin.light_trainer]

[plugin.light_export]

[plugin.light_diary]
path = "diary.jsonl"
"""
