"""Open the MLflow run of a run: the one that is remembered, or a new one, with its settings as parameters."""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Run, RunError, Tracker, without_secrets
from ftcore_plugins.common.tracking import flat, machine
from ftcore_plugins.mlflow.address import Place, file_fault, find_place
from ftcore_plugins.mlflow.faults import mlflow_errors
from ftcore_plugins.mlflow.files import LOG, Files
from ftcore_plugins.mlflow.names import TAG_LENGTH, clean, texts
from ftcore_plugins.mlflow.notes import Notes
from ftcore_plugins.mlflow.remembered import Remembered, read_remembered, write_remembered
from ftcore_plugins.mlflow.tracker import RunTracker

__all__ = ["open_tracker"]

KEY_TAG = "ftcore.key"
QUIET = ("alembic", "mlflow.store.db.utils")


def open_tracker(config: Any, run: Run, settings: Mapping[str, Any]) -> Tracker:
    """Raises `RunError` when there is no MLflow at the address, or it does not take the run."""
    place = find_place(config.tracking_uri, run.folder)
    fault = place.fault or (file_fault(place.file) if place.file else "")
    if fault:
        raise RunError(f"plugin.mlflow: {fault}")
    with mlflow_errors(place):
        client = _client(place)
        remembered, found, adopted = _opened(client, config, run, place)
        notes = Notes(client, found)
        files = Files(client, remembered.run_id)
        notes.params({**flat(settings), **machine(run.folder)})
        files.text("settings.json", without_secrets(json.dumps(settings, indent=1, ensure_ascii=False, default=str)))
    LOG.info("%s shows the run", _where(place, remembered))
    return RunTracker(
        config=config,
        run=run,
        place=place,
        client=client,
        remembered=remembered,
        notes=notes,
        files=files,
        adopted=adopted,
    )


def _where(place: Place, remembered: Remembered) -> str:
    if place.is_server:
        return f"{place.shown}/#/experiments/{remembered.experiment_id}/runs/{remembered.run_id}"
    return f"mlflow server --backend-store-uri {place.shown}"


def _client(place: Place) -> Any:
    from mlflow import MlflowClient, set_tracking_uri

    for name in QUIET:  # a line for each table that a new database gets
        logging.getLogger(name).setLevel(logging.WARNING)
    if place.file is not None:
        place.file.parent.mkdir(parents=True, exist_ok=True)
    set_tracking_uri(place.uri)  # the registry of a database makes a client of its own
    return MlflowClient(tracking_uri=place.uri)


def _opened(client: Any, config: Any, run: Run, place: Place) -> tuple[Remembered, Any, bool]:
    """What is remembered now, the MLflow run, and whether it was there before."""
    remembered = read_remembered(run.folder, place.shown)
    found = _by_id(client, remembered.run_id)
    if found is None:
        if remembered.run_id:  # somebody has deleted it there
            remembered = Remembered(address=place.shown)
        write_remembered(run.folder, remembered)
        experiment = _experiment(client, config, run, place)
        found = _by_key(client, experiment, remembered.key)
    adopted = found is not None
    if found is None:
        found = _created(client, config, run, experiment, remembered.key)
    info = found.info
    remembered = attrs.evolve(remembered, run_id=info.run_id, experiment_id=info.experiment_id)
    write_remembered(run.folder, remembered)
    return remembered, found, adopted


def _by_id(client: Any, run_id: str) -> Any:
    """The MLflow run, or None if it is not there, or has been deleted."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return found if found.info.lifecycle_stage == "active" else None


def _by_key(client: Any, experiment: str, key: str) -> Any:
    """One whose making was not answered any more."""
    found = client.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0] if found else None


def _created(client: Any, config: Any, run: Run, experiment: str, key: str) -> Any:
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": "ftcore",
        "mlflow.source.type": "LOCAL",
        "ftcore.run": run.folder.name,
        "ftcore.folder": str(run.folder),
        KEY_TAG: key,
        **texts(config.tags, TAG_LENGTH),
    }
    name = config.run_name or run.folder.name
    return client.create_run(experiment, start_time=_started(run.folder), tags=tags, run_name=name)


def _experiment(client: Any, config: Any, run: Run, place: Place) -> str:
    """The id of the experiment, which is made if there is none."""
    name = config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.name
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=_artifacts(place, run, name)))
    if found.lifecycle_stage != "active":
        advice = "restore it with mlflow experiments restore, or name another one in plugin.mlflow.experiment"
        raise RunError(f"plugin.mlflow: the experiment {name} was deleted at {place.shown}; {advice}")
    return str(found.experiment_id)


def _artifacts(place: Place, run: Run, name: str) -> str | None:
    """Beside a database, where MLflow itself would take the working directory. A server knows its own place."""
    if not place.is_database:
        return None
    beside = place.file.with_suffix("") if place.file else run.folder.absolute().parent / "mlflow"
    return (beside.with_name(f"{beside.name}-artifacts") / clean(name)).as_uri()


def _started(folder: Path) -> int | None:
    """When the run began, in milliseconds: it may be sent long after."""
    try:
        text = json.loads((folder / "manifest.json").read_text("utf-8"))["created"]
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
