"""Where the files of an export lie, and what they are called: for those that write them, and those that find them."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

SUFFIX, VISION, ADAPTER, BASE, WORK = ".gguf", "mmproj", "lora", "base", ".work/gguf"


@attrs.frozen(kw_only=True)
class Places:
    """Where files go: what is shipped, and what is only needed on the way. `name` is the run's, as in a file's name."""

    folder: Path
    work: Path
    name: str

    def shipped(self, quantization: str) -> Path:
        """The text model."""
        return self.folder / f"{self.name}-{quantization}.gguf"

    def made_from(self, dtype: str) -> Path:
        """The whole weights that what is shipped is quantized from, where they are not shipped themselves."""
        return self.work / f"{self.name}-{dtype}.gguf"

    @property
    def vision(self) -> Path:
        """What sees images for it."""
        return self.folder / f"{VISION}-{self.name}-f16.gguf"

    @property
    def adapter(self) -> Path:
        """The adapter alone."""
        return self.folder / f"{self.name}-{ADAPTER}-f16.gguf"


def file_name(name: str) -> str:
    """A name that no shell, and no Modelfile, has trouble with."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "model"
