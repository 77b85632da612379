"""Everything before the first heavy import: profile, plugins, options, slots, and each plugin's own check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.assembly import build_plugins
from ftcore.discovery import Installed, Source, config_class, discover
from ftcore.disk import disk_problems
from ftcore.errors import PluginError, Problem, ProfileError
from ftcore.evaluation.best import score_problems
from ftcore.hardware.findings import hardware_problems
from ftcore.isolation import Report, Traced
from ftcore.options import as_table, defaults_of
from ftcore.plugins import Active, Plugins
from ftcore.processes.placement import launch_problems, world_size
from ftcore.profile import HARDWARE_PROFILE, LayeredProfile, Table, read_profile
from ftcore.sensible import contradictions, doubts
from ftcore.structure import KeyPath, nearest, structure
from ftcore.tables import DataTable, ExportTable, HardwareTable, ModelTable, RunTable, TrainTable
from ftcore.values import Profile, Run

CORE_TABLES: Mapping[str, type[Any]] = {
    "run": RunTable,
    "hardware": HardwareTable,
    "model": ModelTable,
    "data": DataTable,
    "train": TrainTable,
    "export": ExportTable,
}


@attrs.frozen(kw_only=True)
class LoadedProfile:
    """A profile without mistakes: typed core tables, and the plugins that are on, in profile order."""

    source: LayeredProfile
    profile: Profile
    active: tuple[Active, ...]

    @property
    def run_name(self) -> str:
        """`run.name`, or the profile's file name."""
        return self.profile.run.name or self.source.name

    def settings(self) -> Table:
        """The resolved profile as plain tables: every option with its value, paths absolute."""
        tables = {name: as_table(getattr(self.profile, name)) for name in CORE_TABLES}
        tables["run"]["name"] = self.run_name
        tables["hardware"]["profile"] = self._hardware_profile()
        plugins = {plugin.source.name: as_table(plugin.config) for plugin in self.active if not plugin.fallback}
        return {**tables, "plugin": plugins}

    def defaults(self) -> Table:
        """The same, with the default of every option that has one."""
        tables = {name: defaults_of(cls) for name, cls in CORE_TABLES.items()}
        plugins = {each.source.name: defaults_of(type(each.config)) for each in self.active if not each.fallback}
        return {**tables, "plugin": plugins}

    def _hardware_profile(self) -> str | list[str]:
        """`hardware.profile`, with paths that hang on no folder."""
        *below, _, _ = self.source.layers
        named = self.profile.hardware.profile
        names = [named] if isinstance(named, str) else [*named]
        if below:
            folder = self.source.folder_of(HARDWARE_PROFILE)
            names = [str(folder / name) if name.endswith(".toml") else name for name in names]
        return names[0] if isinstance(named, str) else names


def load_profile(
    path: str | Path,
    *,
    sets: Sequence[str] = (),
    switch_on: Sequence[str] = (),
    switch_off: Sequence[str] = (),
    resolved: bool = False,
) -> LoadedProfile:
    """Read and check a profile. Imports the plugins that it names, and nothing heavy.

    `resolved` says that it is a run's own, which names every option: no hardware profile lies under it.
    Raises `ProfileError` with every problem of the profile, or `PluginError` when a plugin is broken.
    """
    installed = discover()
    source = read_profile(
        Path(path),
        sets=sets,
        switch_on=switch_on,
        switch_off=switch_off,
        fallbacks=installed.fallbacks,
        resolved=resolved,
    )
    tables, problems = _core_tables(source)
    off = tables["run"].without if "run" in tables else ()
    active, plugin_problems, broken = _active_plugins(source, installed, off)
    profile = _with_dividing_micro_batch(source, Profile(**tables))
    found = (finding for finding in contradictions(profile) if finding[0][0] in tables)
    problems += [*source.problems, *plugin_problems, *(source.problem(key, text) for key, text in found)]
    if problems:
        raise ProfileError([*problems, *(Problem(message=str(error)) for error in broken)])
    if broken:
        raise PluginError("\n".join(str(error) for error in broken))
    return LoadedProfile(source=source, profile=profile, active=tuple(active))


def check_profile(
    loaded: LoadedProfile, run: Run, *, report: Report, record: Callable[[Traced], None] | None = None
) -> tuple[Plugins, list[Problem]]:
    """Register the plugins and ask each to check. Returns them with the warnings.

    Raises `ProfileError` with every slot conflict, or every error that a check found.
    """
    plugins, conflicts = build_plugins(loaded.active, report=report, record=record)
    if conflicts:  # what is checked depends on which plugins stay
        raise ProfileError(loaded.source.locate(problem) for problem in conflicts)
    found = [
        loaded.source.locate(problem) for problem in (*plugins.check(run), *disk_problems(run), *launch_problems(run))
    ]
    found += map(loaded.source.locate, score_problems(loaded.profile, plugins))
    found += [loaded.source.problem(key, text, "warning") for key, text in doubts(loaded.profile)]
    found += hardware_problems(loaded.source, loaded.profile)
    if any(problem.severity == "error" for problem in found):
        raise ProfileError(found)
    return plugins, found


def _core_tables(source: LayeredProfile) -> tuple[dict[str, Any], list[Problem]]:
    """Every table without a mistake, and the mistakes in the others."""
    tables: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, cls in CORE_TABLES.items():
        table, found = _table(source, cls, (name,))
        problems += found
        tables |= {} if found else {name: table}
    for name in source.tables:
        if name not in CORE_TABLES and name != "plugin":
            hint = nearest(name, [*CORE_TABLES, "plugin"])
            problems.append(source.problem((name,), f"unknown table{hint}"))
    return tables, problems


def _with_dividing_micro_batch(source: LayeredProfile, profile: Profile) -> Profile:
    """What a machine can hold is no divisor of every batch: a hardware profile's micro-batch is taken down to one."""
    train, layer = profile.train, source.layer_of(("train", "micro_batch_size"))
    if train.micro_batch_size is None or layer is None or layer not in source.layers[:-2]:
        return profile
    share = max(1, train.batch_size // world_size(profile.hardware))
    micro = next(rows for rows in range(min(train.micro_batch_size, share), 0, -1) if share % rows == 0)
    return attrs.evolve(profile, train=attrs.evolve(train, micro_batch_size=micro))


def _table(source: LayeredProfile, cls: type[Any], key: KeyPath) -> tuple[Any, list[Problem]]:
    table: Any = source.tables
    for part in key:
        table = table.get(part, {})
    value, mistakes = structure(cls, table, key)
    if mistakes:
        return None, [source.problem(path, text) for path, text in mistakes]
    return _with_absolute_paths(source, value, key), []


def _with_absolute_paths(source: LayeredProfile, value: Any, key: KeyPath) -> Any:
    """Relative paths hang on the file that they are written in; defaults on the working directory."""
    changes = {}
    for field in attrs.fields(type(value)):
        item, folder = getattr(value, field.name), source.folder_of((*key, field.name))
        if attrs.has(type(item)):
            changes[field.name] = _with_absolute_paths(source, item, (*key, field.name))
        elif isinstance(item, Path):
            changes[field.name] = folder / item
        elif isinstance(item, tuple) and any(isinstance(part, Path) for part in item):
            changes[field.name] = tuple(folder / part for part in item)
        elif field.metadata.get("folder_or_id") and item:
            changes[field.name] = _folder_or_id(folder, item)
    return attrs.evolve(value, **changes)


def _folder_or_id(folder: Path, text: str) -> str:
    path = folder / Path(text).expanduser()
    meant = text.startswith((".", "/", "~")) or path.is_dir()
    return str(path.resolve()) if meant else text


def _active_plugins(
    source: LayeredProfile, installed: Installed, off: Sequence[str]
) -> tuple[list[Active], list[Problem], list[PluginError]]:
    named = source.tables.get("plugin", {})
    if not isinstance(named, dict):
        return [], [source.problem(("plugin",), "expected tables such as [plugin.lora]")], []
    active: list[Active] = []
    problems = [
        source.problem(("run", "without"), f"no fallback is called {name}{nearest(name, installed.fallbacks)}")
        for name in off
        if name not in installed.fallbacks
    ]
    both = [name for name in off if name in named]
    problems += [source.problem(("plugin", name), "run.without switches it off; keep one of them") for name in both]
    on = [name for name in installed.fallbacks if name not in named and name not in off]
    broken: list[PluginError] = []
    for name in [*named, *on]:
        if name not in installed.names:
            problems.append(source.problem(("plugin", name), f"no such plugin{nearest(name, installed.names)}"))
            continue
        try:
            found = installed.find(name)
            plugin, mistakes = _activate(source, found, fallback=name not in named)
        except PluginError as error:
            broken.append(error)
            continue
        problems += mistakes
        active += [plugin] if plugin else []
    return active, problems, broken


def _activate(source: LayeredProfile, found: Source, *, fallback: bool) -> tuple[Active | None, list[Problem]]:
    cls = found.load()
    try:
        config, problems = _table(source, config_class(cls), ("plugin", found.name))
    except (NameError, TypeError) as error:
        raise PluginError(f"plugin {found}: its Config cannot be read: {error}") from error
    if problems:
        return None, problems
    return Active(source=found, cls=cls, config=config, fallback=fallback), []
