"""What libraries would tell others of a training process."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftcore_plugins.sft import Options, Sft


@pytest.mark.parametrize(("before", "after"), [(None, "true"), ("false", "false")])
def test_mlflow_which_deepspeed_imports_tells_nobody(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setattr(os, "environ", {} if before is None else {"MLFLOW_DISABLE_TELEMETRY": before})
    found: list[str | None] = []

    def make_trainer(*_: Any) -> None:
        found.append(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))

    monkeypatch.setitem(
        sys.modules, "ftcore_plugins.sft.trainer", cast("Any", SimpleNamespace(make_trainer=make_trainer))
    )
    nothing = cast("Any", None)
    Sft(Options()).make_trainer(nothing, nothing, nothing, {})
    assert found == [after]
