"""Rows from files: JSONL, JSON, CSV, TSV, Parquet and Arrow, of this machine or of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from ftcore.api import Part, Problem, Row, RowSource, Run, RunError, hookimpl
from ftcore_plugins.files.choice import Choice, choose, option_faults
from ftcore_plugins.files.faults import DataFault
from ftcore_plugins.files.hub import hub_errors
from ftcore_plugins.files.places import DataFile
from ftcore_plugins.files.rows import FileRows
from ftcore_plugins.files.spool import indexed
from ftcore_plugins.files.start import faults_at_the_start

SHOWN_PROBLEMS = 10
LOG = logging.getLogger("ftcore.plugins.files")


class Files:
    """Row source: `data.path` is a data file, a folder of them, or a list of both; `data.id` a data set of the hub.

    Files of a folder are read in the order of their names; where they name splits, `data.split` picks one. Rows are
    read when they are asked for. Row.origin is the file's name and the line, or the place among the rows:
    `functions.jsonl:41`, `part.parquet:row 41`.
    """

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The options fit together, the files are there, and the first lines hold rows. Reads a few megabytes."""
        data = run.profile.data
        faults = option_faults(data)
        if faults or data.id:
            return [fault.problem() for fault in faults]
        try:
            choice = choose(data)
            faults = faults_at_the_start(choice.trained) + faults_at_the_start(choice.validation)
        except DataFault as fault:
            return [fault.problem()]
        if data.max_rows or len(faults) <= data.max_bad_rows:  # which rows will be read is not known yet
            return []
        return [fault.problem() for fault in faults[:SHOWN_PROBLEMS]]

    @hookimpl
    def load_rows(self, run: Run) -> RowSource:
        """Index the rows. Raises `RunError` for what is wrong with a whole file, or with the options."""
        try:
            return _row_source(run, choose(run.profile.data))
        except DataFault as fault:
            raise RunError(str(fault)) from fault


def _row_source(run: Run, choice: Choice) -> RowSource:
    digest = hashlib.sha256()
    parts = [Part(rows=_rows(run, files, digest, f"weight {weight}"), weight=weight) for files, weight in choice.parts]
    validation = _rows(run, choice.validation, digest, "held out")
    _fetch_pictures(run, choice, [*(part.rows for part in parts), validation])
    return RowSource(parts=parts, validation=validation, fingerprint=digest.hexdigest())


def _fetch_pictures(run: Run, choice: Choice, rows: Sequence[Sequence[Row]]) -> None:
    """Download what rows of the hub name, once it is known which rows are read."""
    pictures = choice.pictures
    missing = pictures.missing(rows) if pictures else []
    if pictures and missing:
        LOG.info("downloading %d images of %s", len(missing), pictures.repository)
        with hub_errors(pictures.repository, run.profile.data.revision):
            pictures.fetch(missing)


def _rows(run: Run, files: Sequence[DataFile], digest: hashlib._Hash, use: str) -> FileRows:
    """The rows of some files. What they are made from goes into the digest: bytes, format, and where they lie."""
    found = []
    digest.update(f"{use}\n".encode())
    for file in files:
        rows, content = indexed(run, file)
        kind, folder = f"{file.format.kind}{file.format.packing}", file.path.parent
        digest.update(f"{content} {kind} {file.name} {folder}\n".encode("utf-8", "surrogateescape"))
        found.append(rows)
    return FileRows(found)
