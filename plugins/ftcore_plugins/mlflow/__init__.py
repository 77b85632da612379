"""Sends a run to an MLflow server, or to a SQLite file beside the runs, which `mlflow server` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Literal

import attrs
from attrs import Factory

from ftcore.api import Problem, Run, Tracker, hookimpl, option
from ftcore_plugins.common.asking import Refused, Unreachable
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.mlflow.address import Place, file_fault, find_place
from ftcore_plugins.mlflow.login import ask_server

KEY = "plugin.mlflow"
OLDEST = (3, 5)
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.mlflow]`. A login comes from `MLFLOW_TRACKING_USERNAME` and its like, never from here."""

    tracking_uri: str = option(
        "",
        help="address of the server, or sqlite:///FILE; MLFLOW_TRACKING_URI if empty, else mlflow.db in run.output_dir",
    )
    experiment: str = option(
        "", help="experiment that the run belongs to; MLFLOW_EXPERIMENT_NAME if empty, else the run's name"
    )
    run_name: str = option("", help="name of the run there; the name of the run's folder if empty")
    tags: Mapping[str, str] = option(Factory(dict), help='tags of the run there, such as { team = "grids" }')
    log_model: Literal["none", "adapter", "merged"] = option(
        "none",
        help="files to send as a logged model of MLflow when the run has finished: merged is the export of "
        "plugin.merge, adapter is what was trained, also where that is the whole model",
    )
    registered_model: str = option(
        "", help="name in MLflow's registry that the logged model becomes a new version of; needs log_model"
    )


class MLflow:
    """Parameters, metrics, answers as tables with their images, exports with their proofs, and the model if asked."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The package, an address that MLflow takes, and a server that answers and knows the login."""
        return [*_package_problems(), *self._option_problems(), *self._place_problems(run)]

    @hookimpl
    def track(self, run: Run, settings: Mapping[str, Any]) -> Tracker:
        """Open the run there, or the same one again."""
        from ftcore_plugins.mlflow.environment import prepare_environment

        prepare_environment()
        from ftcore_plugins.mlflow.opening import open_tracker

        return open_tracker(self.config, run, settings)

    def _option_problems(self) -> Iterator[Problem]:
        if self.config.registered_model and self.config.log_model == "none":
            message = f'{self.config.registered_model} needs a model; write log_model = "adapter" or "merged"'
            yield Problem(key=f"{KEY}.registered_model", message=message)

    def _place_problems(self, run: Run) -> Iterator[Problem]:
        place = find_place(self.config.tracking_uri, run.folder)
        if place.fault:
            yield Problem(key=f"{KEY}.tracking_uri", message=place.fault)
        elif place.is_database:
            yield from missing("mlflow", "mlflow", "sqlalchemy", "alembic")
            fault = file_fault(place.file) if place.file else ""
            if fault:
                yield Problem(key=f"{KEY}.tracking_uri", message=fault)
        elif place.is_server:
            yield from _server_problems(place)


def _package_problems() -> list[Problem]:
    absent = missing("mlflow", "mlflow", "mlflow")
    found = "" if absent else _version()
    if not found or _is_recent(found):
        return absent
    wanted = ".".join(map(str, OLDEST))
    message = f"mlflow {found} is older than {wanted}; run: pip install --upgrade 'ftcore[mlflow]'"
    return [Problem(key=KEY, message=message)]


def _version() -> str:
    """Read without importing it; `mlflow-skinny` is enough for a server. Empty where nobody knows."""
    for name in ("mlflow-skinny", "mlflow"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _is_recent(version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) >= OLDEST


def _server_problems(place: Place) -> Iterator[Problem]:
    try:
        ask_server(place.uri)
    except Refused as error:
        yield Problem(key=KEY, message=f"{place.shown} refuses the login ({error}); set {LOGIN}")
    except Unreachable as error:
        text = f"{place.shown}, from {place.source}, does not answer as MLflow does ({error}); "
        text += "the run goes on without it, and ftcore sync sends it later"
        yield Problem(key=KEY, message=text, severity="warning")
