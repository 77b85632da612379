"""Parameters and tags of one MLflow run, which are asked for once and then known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcore_plugins.mlflow.names import TAG_LENGTH, batches, texts

__all__ = ["Notes"]

AT_ONCE = 20
"""So many that none of the longest makes a request over MLflow's limit of 1 MB."""

CHANGED = "ftcore.changed"


class Notes:
    """Writes only what is new. MLflow refuses a parameter's second value, so that one becomes a tag."""

    def __init__(self, client: Any, found: Any) -> None:
        self._client = client
        self._run_id: str = found.info.run_id
        self._params: dict[str, str] = dict(found.data.params)
        self._tags: dict[str, str] = dict(found.data.tags)
        self._changed: dict[str, str] = {}
        self.metrics: dict[str, float] = dict(found.data.metrics)

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; what differs from before is told by the tag `ftcore.changed`."""
        from mlflow.entities import Param

        wanted = texts(values)
        fresh = {name: text for name, text in wanted.items() if name not in self._params}
        for names in batches(fresh, AT_ONCE):
            self._client.log_batch(self._run_id, params=[Param(name, fresh[name]) for name in names], synchronous=True)
            self._params.update({name: fresh[name] for name in names})
        other = {name: text for name, text in wanted.items() if self._params[name] != text}
        self._changed |= {name: f"{name}: {self._params[name]} -> {text}" for name, text in other.items()}
        if self._changed or self.tag(CHANGED):
            self.tags({CHANGED: "; ".join(self._changed.values())})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Tags; a new value replaces the old one."""
        from mlflow.entities import RunTag

        wanted = texts(values, TAG_LENGTH)
        fresh = {name: text for name, text in wanted.items() if self._tags.get(name) != text}
        for names in batches(fresh, AT_ONCE):
            self._client.log_batch(self._run_id, tags=[RunTag(name, fresh[name]) for name in names], synchronous=True)
            self._tags.update({name: fresh[name] for name in names})

    def tag(self, name: str) -> str:
        """The value of a tag, empty without it."""
        return self._tags.get(name, "")
