"""What stands in `trackers/mlflow-run.json`: which MLflow run is this run's, so that it is found again."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import attrs

__all__ = ["Remembered", "read_remembered", "write_remembered"]

FILE = "trackers/mlflow-run.json"


@attrs.frozen(kw_only=True)
class Remembered:
    """`key` is a tag of the MLflow run that is made before it: an answer that got lost makes no second run."""

    address: str
    key: str = attrs.field(factory=lambda: uuid.uuid4().hex)
    run_id: str = ""
    experiment_id: str = ""
    model_id: str = ""
    model_looks: str = ""


def read_remembered(folder: Path, address: str) -> Remembered:
    """What is known of the run in `folder` at this address, which has no login in it; else a new one."""
    try:
        values = json.loads((folder / FILE).read_text("utf-8"))
        known = Remembered(**{field.name: values[field.name] for field in attrs.fields(Remembered)})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Remembered(address=address)
    sound = all(isinstance(value, str) for value in attrs.astuple(known)) and known.key
    return known if sound and known.address == address else Remembered(address=address)


def write_remembered(folder: Path, remembered: Remembered) -> None:
    """Replace it as a whole."""
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.new")
    staging.write_text(json.dumps(attrs.asdict(remembered), indent=1) + "\n", "utf-8")
    staging.replace(path)
