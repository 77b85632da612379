"""Put models side by side on the same rows: base, checkpoints, and runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.display import Display
from ftcore.errors import RunError
from ftcore.evaluation.again import STEPS
from ftcore.evaluation.differing import Difference, differences
from ftcore.evaluation.measuring import Answering, Measured, figures, measure, scores_of
from ftcore.evaluation.rowset import HELD_OUT, TRAINED, Rowset, Wanted, choose_rows, spread
from ftcore.evaluation.statistics import LEVEL, METHOD, Draws, Interval
from ftcore.evaluation.subjects import Subject, reference_of, same_model
from ftcore.manifest import read_manifest
from ftcore.reopening import STAGES, Opened, Reopened, opened, read_rows, reopen


@attrs.frozen(kw_only=True)
class Comparison:
    """What each model made of the same rows, and how it differs from the `reference`."""

    rows: Rowset
    reference: str
    measured: Mapping[str, Measured]
    figures: Mapping[str, Mapping[str, Interval]]
    differences: Sequence[Difference]
    draws: Draws
    notes: Sequence[str] = ()

    @property
    def answered(self) -> int:
        """How many rows are answered."""
        return len(next(iter(self.measured.values())).answers)

    def samples(self, count: int | None = None) -> list[dict[str, Any]]:
        """Rows with the answers of every model, by its name."""
        columns = {name: measured.answers[:count] for name, measured in self.measured.items()}
        first = next(iter(columns.values()))
        return [
            {
                "origin": one.origin,
                "prompt": one.prompt,
                "expected": one.expected,
                "answers": {name: answers[place].prediction.answer for name, answers in columns.items()},
            }
            for place, one in enumerate(first)
        ]

    def as_json(self) -> dict[str, Any]:
        """The stable form, which docs/evaluation.md describes."""
        return {
            "rows": {
                "name": self.rows.name,
                "count": len(self.rows.examples),
                "answered": self.answered,
                "left_out": dict(self.rows.left_out),
            },
            "reference": self.reference,
            "models": [self._model(name) for name in self.measured],
            "differences": [difference.as_json() for difference in self.differences],
            "interval": {"level": LEVEL, "method": f"{METHOD}, paired", "seed": self.draws.seed},
            "notes": list(self.notes),
            "samples": self.samples(),
        }

    def _model(self, name: str) -> dict[str, Any]:
        found = {figure: each.as_json() for figure, each in self.figures[name].items()}
        loss, perplexity = found.pop("loss"), found.pop("perplexity")
        counts = {key: value for key, value in scores_of(self.measured[name]).values.items() if key not in found}
        return {"name": name, "loss": loss, "perplexity": perplexity, "scores": found, "counts": counts}


def compare(
    subjects: Sequence[Subject],
    *,
    wanted: Wanted,
    answering: Answering,
    draws: int,
    sets: Sequence[str] = (),
    allow_changes: bool = False,
    display: Display | None = None,
) -> Comparison:
    """Judge each of them on the same rows. `sets` are laid over the profile of every run.

    Raises `RunError` when the runs' own rows of a split differ, when one has no such weights, or when another process
    holds one of them.
    """
    work = Bench(subjects, wanted, answering, display, sets=sets, allow_changes=allow_changes)
    rows, measured = work.measured()
    drawing = Draws(count=draws, seed=work.seed)
    ordered = {subject.name: measured[subject.name] for subject in subjects}
    reference = reference_of(subjects).name
    found, notes = differences(ordered, reference, drawing)
    return Comparison(
        rows=rows,
        reference=reference,
        measured=ordered,
        figures={name: figures(each, drawing) for name, each in ordered.items()},
        differences=found,
        draws=drawing,
        notes=notes,
    )


class Bench:
    """Opens one run after the other, and judges its models; a run that differs in its training alone shares a model."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        wanted: Wanted,
        answering: Answering,
        display: Display | None,
        *,
        sets: Sequence[str],
        allow_changes: bool,
    ) -> None:
        self._subjects, self._wanted, self._answering = subjects, wanted, answering
        self._sets, self._allow, self._display = sets, allow_changes, display
        self._folders = list(dict.fromkeys(subject.folder for subject in subjects))
        self._manifests = {folder: read_manifest(folder) for folder in self._folders}
        self.seed = int(self._manifests[self._folders[0]].settings.get("run", {}).get("seed", 0))

    def measured(self) -> tuple[Rowset, dict[str, Measured]]:
        """The rows, and what each subject made of them."""
        order = self._common()
        found: dict[str, Measured] = {}
        rows: list[Rowset] = []
        for group in self._groups():
            with self._opened(group[0]) as run:
                rows.append(self._judge_group(run, group, order, found))
            gc.collect()  # a model is large, and its parts hold each other
        return rows[0], found

    def _judge_group(
        self, run: Opened, group: Sequence[Path], order: tuple[int, ...] | None, found: dict[str, Measured]
    ) -> Rowset:
        with ExitStack() as stack:
            others = {folder: stack.enter_context(self._opened(folder)) for folder in group[1:]}
            turns = list(self._turns({group[0]: run, **others}))
            prepared = read_rows(run)
            rows = self._chosen(run, prepared, order)
            model = reopen(run, prepared)
            for subject, weights in turns:
                run.display.say(f"judging {subject.name}")
                found[subject.name] = self._judge(model, rows, weights)
        return rows

    def _turns(self, runs: Mapping[Path, Opened]) -> Iterator[tuple[Subject, Path | None]]:
        """The subjects of these runs with the folders of their weights: bases first, whom no weights are put into."""
        own = [subject for subject in self._subjects if subject.folder in runs]
        for subject in sorted(own, key=lambda subject: not subject.weights.base):
            yield subject, subject.weights.folder(runs[subject.folder])

    def _judge(self, model: Reopened, rows: Rowset, weights: Path | None) -> Measured:
        if weights is not None:
            model.put(weights)
        return measure(model, rows, self._answering)

    def _groups(self) -> list[list[Path]]:
        groups: list[list[Path]] = []
        for folder in self._folders:
            manifest = self._manifests[folder]
            like = next((g for g in groups if same_model(self._manifests[g[0]], manifest)), None)
            if like is None:
                groups.append([folder])
            else:
                like.append(folder)
        return groups

    @contextmanager
    def _opened(self, folder: Path) -> Iterator[Opened]:
        with opened(folder, sets=self._sets, allow_changes=self._allow, display=self._display) as run:
            yield attrs.evolve(self._answering.applied(run), stages=(*STAGES, *STEPS))

    def _chosen(self, run: Opened, prepared: Prepared, order: tuple[int, ...] | None) -> Rowset:
        rows = choose_rows(run, prepared, attrs.evolve(self._wanted, rows=None))
        rows = rows if order is None else rows.only(order)
        return rows.at(spread(len(rows.examples), self._wanted.rows))

    def _common(self) -> tuple[int, ...] | None:
        """The keys of the rows that all groups of runs have, before any model is read; None for one group."""
        groups = self._groups()
        if len(groups) == 1:
            return None
        found: dict[Path, Rowset] = {}
        for group in groups:
            with self._opened(group[0]) as run:
                found[group[0]] = choose_rows(run, read_rows(run), attrs.evolve(self._wanted, rows=None))
        return common_keys({folder.name: rows for folder, rows in found.items()}, self._wanted)


def common_keys(found: Mapping[str, Rowset], wanted: Wanted) -> tuple[int, ...]:
    """The keys that all have, in the first one's order.

    Raises `RunError` for a run's own split whose rows differ: a row that one was judged by, another was trained on.
    """
    (first, rows), *others = found.items()
    for name, other in others:
        own = wanted.file is None and wanted.split in (HELD_OUT, TRAINED)
        if own and set(other.keys) != set(rows.keys):
            raise RunError(_differ(wanted.split, first, rows, name, other))
    shared = set(rows.keys).intersection(*(other.keys for _, other in others))
    if not shared:
        raise RunError(f"the runs have no row of {wanted.name} in common that all of them can read")
    return tuple(dict.fromkeys(key for key in rows.keys if key in shared))


def _differ(split: str, first: str, rows: Rowset, name: str, other: Rowset) -> str:
    one, two = (rows, other) if set(rows.keys) - set(other.keys) else (other, rows)
    owner, lacking = (first, name) if one is rows else (name, first)
    strange = [place for place, key in enumerate(one.keys) if key not in set(two.keys)]
    return (
        f"the {split} rows differ: {len(strange)} of the {len(one.keys)} of {owner} are not among the "
        f"{len(two.keys)} of {lacking}, such as {one.examples[strange[0]].origin}; name common rows with --data FILE"
    )
