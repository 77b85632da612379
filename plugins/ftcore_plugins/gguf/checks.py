"""What can be known before anything is loaded: options that contradict the model, or what a Modelfile can hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftcore.api import Problem, Run, RunError
from ftcore_plugins.common.model_folder import read_config
from ftcore_plugins.gguf import Options
from ftcore_plugins.gguf.conversion.architectures import supports


def problems(run: Run, options: Options) -> list[Problem]:
    """Everything that is wrong, as far as the model's configuration is there to be looked at."""
    config = read_config(Path(run.profile.model.id)) if run.profile.model.id else None
    faults = {
        "quantization": "" if options.quantizations else "is empty; name a type such as q4_k_m, or leave it out",
        "system": '""" ends a text in a Modelfile; write it without' if '"""' in options.system else "",
        "context": context_fault(config or {}, options.context),
        "converter": _converter_fault(config, options.converter),
    }
    return [Problem(key=f"plugin.gguf.{name}", message=fault) for name, fault in faults.items() if fault]


def require_context(config: Mapping[str, Any], wanted: int) -> None:
    """Raise `RunError` for what `check` could not know before the model was there."""
    if fault := context_fault(config, wanted):
        raise RunError(f"plugin.gguf.context: {fault}")


def context_fault(config: Mapping[str, Any], wanted: int) -> str:
    """Why a model of this configuration cannot have so many tokens of context; empty where it can, or nobody knows."""
    longest = (config.get("text_config") or config).get("max_position_embeddings")
    if not isinstance(longest, int) or wanted <= longest:
        return ""
    return f"{wanted} tokens are more than the {longest} that the model can read; take those at most"


def _converter_fault(config: Mapping[str, Any] | None, converter: Path | None) -> str:
    """A converter that is wanted must be there: the one that is named, and one for what ftcore does not know itself."""
    if converter is None and (config is None or supports(config)):
        return ""
    from ftcore_plugins.gguf.conversion.external import converter_problem

    return converter_problem(str(converter or ""))
