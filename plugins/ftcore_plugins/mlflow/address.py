"""Where MLflow keeps runs: a server, a database, or by default a SQLite file beside the runs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from ftcore.api import without_logins

__all__ = ["OPTION", "VARIABLE", "Place", "file_fault", "find_place"]

OPTION, VARIABLE = "plugin.mlflow.tracking_uri", "MLFLOW_TRACKING_URI"
DEFAULT = "mlflow.db"
SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
HOSTED = ("databricks", "databricks-uc")
SQLITE = "sqlite:///"
FORMS = f"an address such as http://host:5000, or {SQLITE}FILE"


@attrs.frozen(kw_only=True)
class Place:
    """An address as MLflow takes it, and who named it. `fault` says what is wrong with it, if anything is."""

    uri: str
    source: str
    fault: str = ""

    @property
    def is_server(self) -> bool:
        """Whether it is an MLflow server."""
        return _scheme(self.uri) in SERVERS

    @property
    def is_database(self) -> bool:
        """Whether it is written to without a server."""
        return _scheme(self.uri) in DATABASES

    @property
    def shown(self) -> str:
        """The address without a login in it."""
        return without_logins(self.uri)

    @property
    def file(self) -> Path | None:
        """The SQLite file."""
        return Path(self.uri.removeprefix(SQLITE).partition("?")[0]) if self.uri.startswith(SQLITE) else None


def find_place(option: str, folder: Path) -> Place:
    """The address for the run in `folder`. A relative SQLite file lies in the folder of all runs."""
    runs = folder.absolute().parent
    if option:
        return _place(option, OPTION, runs)
    named = os.environ.get(VARIABLE, "").strip()
    return _place(named, VARIABLE, runs) if named else _place(f"{SQLITE}{DEFAULT}", "the default", runs)


def file_fault(file: Path) -> str:
    """Why MLflow could not open a SQLite file, empty if it can: it would try for two minutes to find that out."""
    above = next(path for path in file.parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return f"{file} cannot be written: {above} is no folder that this user may write to"
    if file.is_dir():
        return f"{file} is a folder; name a file in it"
    if not file.exists():
        return ""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        return "" if "locked" in str(error) else f"{file} cannot be opened ({error})"
    except sqlite3.DatabaseError as error:
        return f"{file} is no database ({error}); name another file"
    return ""


def _place(uri: str, source: str, runs: Path) -> Place:
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        uri = f"{SQLITE}{runs / uri.removeprefix(SQLITE)}"
    elif not uri.endswith("://"):
        uri = uri.rstrip("/")
    return Place(uri=uri, source=source, fault=_fault(uri, source))


def _fault(uri: str, source: str) -> str:
    scheme = _scheme(uri)
    shown = without_logins(uri)
    if scheme in ("", "file"):
        return f"{shown!r} is a folder, which MLflow no longer writes runs to; write {FORMS}"
    if scheme not in (*SERVERS, *DATABASES, *HOSTED):
        return f"{shown!r} is no address that MLflow takes; write {FORMS}"
    if scheme == "sqlite" and not uri.startswith(SQLITE):
        return f"{shown!r} names no file; write {SQLITE}FILE"
    if scheme in SERVERS and not _host(uri):
        return f"{shown!r} names no host and port; write {FORMS}"
    if source == OPTION and shown != uri:
        return f"{shown} was written with a login in it; leave that out and set {VARIABLE}, or MLflow's login variables"
    return ""


def _scheme(uri: str) -> str:
    """`postgresql` of `postgresql+psycopg://...`."""
    if uri in HOSTED:
        return uri
    scheme, separator, _ = uri.partition(":/")
    return scheme.partition("+")[0].lower() if separator else ""


def _host(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        return f"{parts.hostname or ''}:{parts.port}" if parts.hostname else ""
    except ValueError:  # a port that is none
        return ""
