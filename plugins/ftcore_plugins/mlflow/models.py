"""A run's tuned model as a logged model of MLflow: its files as they are, and a version in the registry if asked."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Run
from ftcore_plugins.mlflow.environment import patient
from ftcore_plugins.mlflow.names import clean
from ftcore_plugins.mlflow.remembered import Remembered, write_remembered

__all__ = ["send_model"]

LOG = logging.getLogger("ftcore.plugins.mlflow")
FOLDER = "model"
MB = 1e6


def send_model(client: Any, config: Any, run: Run, remembered: Remembered, step: int) -> Remembered:
    """Send what `log_model` names, file by file: one that is there already, and as long, is not sent again."""
    source = _source(config.log_model, run.folder)
    if source is None:
        advice = "turn on [plugin.merge]" if config.log_model == "merged" else "the run has saved none"
        LOG.warning("there is no %s model to log; %s", config.log_model, advice)
        return remembered
    remembered = _made(client, config, run, remembered, source)
    if str(client.get_logged_model(remembered.model_id).status) == "READY":
        return remembered
    with patient():
        _send_files(client, remembered.model_id, source, config.log_model)
        _send_description(client, remembered, source, config.log_model)
    if config.registered_model:
        _register(client, config.registered_model, remembered)
    _finish(client, remembered, step)
    return remembered


def _source(what: str, folder: Path) -> Path | None:
    """The folder of the files."""
    if what == "adapter":
        return next((path for name in ("adapter", "model") if (path := folder / name).is_dir()), None)
    for export in _exports(folder):
        path = folder / str(export.get("path", ""))
        if export.get("kind") == "merged" and path.is_dir():
            return path
    return None


def _exports(folder: Path) -> Iterator[Mapping[str, Any]]:
    try:
        found = json.loads((folder / "report.json").read_text("utf-8"))["exports"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    yield from (export for export in found if isinstance(export, Mapping))


def _made(client: Any, config: Any, run: Run, remembered: Remembered, source: Path) -> Remembered:
    """With the logged model's id, which is made if there is none of these files."""
    looks = _looks(source)
    if remembered.model_id and remembered.model_looks == looks:
        return remembered
    made = client.create_logged_model(
        remembered.experiment_id,
        name=_name(f"{run.folder.name}-{config.log_model}"),
        source_run_id=remembered.run_id,
        tags={"ftcore.run": run.folder.name},
        model_type=config.log_model,
    )
    remembered = attrs.evolve(remembered, model_id=made.model_id, model_looks=looks)
    write_remembered(run.folder, remembered)
    return remembered


def _files(source: Path) -> list[Path]:
    return [path for path in sorted(source.rglob("*")) if path.is_file() and not path.name.startswith(".")]


def _looks(source: Path) -> str:
    """Changes when a run goes on and saves its model again: adapters have the same size after it."""
    found = ((path.relative_to(source).as_posix(), path.stat()) for path in _files(source))
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    return hashlib.sha256(json.dumps(facts).encode(errors="backslashreplace")).hexdigest()


def _send_files(client: Any, model_id: str, source: Path, what: str) -> None:
    files = _files(source)
    size = sum(path.stat().st_size for path in files)
    LOG.info("sending the %s model: %d files of %s", what, len(files), f"{size / MB:,.1f} MB")
    there: dict[str, dict[str, int | None]] = {}
    for path in files:
        inside = path.parent.relative_to(source).as_posix()
        place = FOLDER if inside == "." else f"{FOLDER}/{inside}"
        if place not in there:
            found = client.list_logged_model_artifacts(model_id, place)
            there[place] = {Path(file.path).name: file.file_size for file in found if not file.is_dir}
        if there[place].get(path.name) != path.stat().st_size:
            client.log_model_artifact(model_id, str(path), place)


def _send_description(client: Any, remembered: Remembered, source: Path, what: str) -> None:
    """`MLmodel`, the file that MLflow knows a model by. Its flavour says who reads the files: not MLflow itself."""
    from mlflow.models import Model

    flavor = "peft" if (source / "adapter_config.json").is_file() else "huggingface"
    made = Model(
        run_id=remembered.run_id,
        model_id=remembered.model_id,
        flavors={flavor: {"path": FOLDER}},
        metadata={"made_by": "ftcore", "what": what},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "MLmodel"
        made.save(str(path))
        client.log_model_artifact(remembered.model_id, str(path))


def _finish(client: Any, remembered: Remembered, step: int) -> None:
    from mlflow.entities import LoggedModelOutput

    outputs = client.get_run(remembered.run_id).outputs
    if remembered.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(remembered.run_id, [LoggedModelOutput(remembered.model_id, step)])
    client.finalize_logged_model(remembered.model_id, "READY")


def _register(client: Any, name: str, remembered: Remembered) -> None:
    """A new version of `name`, unless this model is one already."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{remembered.model_id}"
    if any(version.source == source for version in client.search_model_versions(f"name = '{name}'")):
        return
    client.create_model_version(name, source, run_id=remembered.run_id, model_id=remembered.model_id)


def _name(text: str) -> str:
    """Names of logged models take none of the signs of a path."""
    return clean(text).replace("/", "-").replace(".", "-")
