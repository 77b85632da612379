"""Writes down how the tuned model answers, so that whatever is exported can be compared with it."""

from __future__ import annotations

from pathlib import Path

import attrs

from ftcore.api import Loaded, PreparedData, Run, hookimpl, option


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.reference]`."""

    positions: int = option(
        48, at_least=1, help="tokens whose probabilities are compared, over a few held-out rows; the trained ones first"
    )
    greedy_tokens: int = option(24, at_least=0, help="most likely tokens after each of a few prompts; 0 for none")


class Reference:
    """Asks the tuned model texts, chats, held-out rows and an image, and keeps its answers for the proofs."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def write_reference(self, run: Run, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
        """Write `reference.json` with its log-probabilities and an image; nothing for a model that is not of torch.

        Raises `RunError` when the model answers with what is no number.
        """
        if not _is_of_torch(loaded.model):
            return
        from ftcore_plugins.reference.writer import write

        write(folder, config=self.config, run=run, loaded=loaded, data=data)


def _is_of_torch(model: object) -> bool:
    """Asked of its classes' names: another trainer's process need not have torch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(model).__mro__)
