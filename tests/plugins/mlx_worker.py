"""Asks many MLX folders in one process without torch: `python mlx_worker.py RESULT REFERENCE FOLDER...`.

A process for each would cost seconds, nearly all of them for imports.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs

from ftcore_plugins.common.proof.process import examine
from ftcore_plugins.mlx.proof import options_of
from ftcore_plugins.mlx.runtime import MlxRuntime

result, reference, *folders = map(Path, sys.argv[1:])
found = {str(folder): attrs.asdict(examine(MlxRuntime, folder, reference, options_of(folder))) for folder in folders}
heavy = sorted(name for name in ("torch", "peft", "trl", "datasets") if sys.modules.get(name))
result.write_text(json.dumps({"found": found, "heavy": heavy}), "utf-8")
