"""The front matter of a model card: YAML between two lines of dashes, which the hub reads and checks.

https://huggingface.co/docs/hub/model-cards says what it knows. Scores are not among it (`model-index`): those of a
run are on rows that were held out of its own data, which nobody else can compare with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.manifest import Manifest
from ftcore.values import Artifact

# https://huggingface.co/docs/hub/repositories-licenses; the hub refuses a card with another word.
LICENSES = frozenset(
    re.findall(
        r"\S+",
        """
        afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
        bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
        cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
        cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
        cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
        etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1
        llama3.2 llama3.3 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl
        postgresql unknown unlicense wtfpl zlib
        """,
    )
)
LIBRARIES: Mapping[str, str] = {"adapter": "peft", "mlx": "mlx", "gguf": ""}  # the hub knows GGUF by the files
LARGEST_OF_ONE_ESCAPE = 0xFFFF
ADAPTER = "adapter_config.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


@attrs.frozen(kw_only=True)
class Subject:
    """What a card is about: the folder it lies in, the run's folder and weights, and the artifacts that it tells of."""

    folder: Path
    home: Path
    saved: Path
    manifest: Manifest
    artifacts: Sequence[Artifact]

    @property
    def kind(self) -> str:
        """What the folder itself is: `merged`, `adapter`, `mlx`, or `gguf` if it holds such files and no model."""
        here = [artifact.kind for artifact in self.artifacts if artifact.path == self.folder]
        if here:
            return here[0]
        if (self.folder / ADAPTER).is_file():
            return "adapter"
        files = any(artifact.path.parent == self.folder for artifact in self.artifacts)
        return "gguf" if files and not (self.folder / "config.json").is_file() else "merged"

    @property
    def base(self) -> str:
        """The base model, by its name on the hub or that of its folder, which may be nowhere but here."""
        return self.hub_base or Path(self._named_base).name

    @property
    def hub_base(self) -> str:
        """The base model's name on the hub, if that is where it came from."""
        return "" if is_folder(self._named_base) else self._named_base

    @property
    def _named_base(self) -> str:
        return str(self.manifest.model.get("base", "")) or str(_table(self.manifest, "model").get("id", ""))

    @property
    def license(self) -> str:
        """The base model's licence as its card names it; empty if that is unknown."""
        return str(self.manifest.model.get("license", ""))

    @property
    def data_set(self) -> str:
        """The name of the data set on the hub, if the rows came from there."""
        return "/".join(str(_table(self.manifest, "data").get("id", "")).split("/")[:2])

    @property
    def adapter(self) -> Mapping[str, Any]:
        """PEFT's settings of the adapter that was trained; none if all weights were."""
        return _json(self.folder / ADAPTER) or _json(self.saved / ADAPTER)

    @property
    def reads_images(self) -> bool:
        """Whether the model takes images beside text."""
        folders = [self.folder, self.saved, *(artifact.path for artifact in self.artifacts)]
        configs = [_json(folder / "config.json") for folder in folders]
        processors = any((folder / name).is_file() for folder in folders for name in PROCESSORS)
        return processors or any("vision_config" in config for config in configs)


def front_matter(subject: Subject) -> Iterator[str]:
    """The lines, from dashes to dashes. What is not known is left out."""
    yield "---"
    if subject.hub_base:
        yield f"base_model: {quoted(subject.hub_base)}"
        # A GGUF of a tuned model is no quantization of its base, which the hub would call it.
        yield f"base_model_relation: {'adapter' if subject.kind == 'adapter' else 'finetune'}"
    library = LIBRARIES.get(subject.kind, "transformers")
    if library:
        yield f"library_name: {library}"
    yield from _license(subject)
    yield f"pipeline_tag: {'image-text-to-text' if subject.reads_images else 'text-generation'}"
    if subject.data_set:
        yield f"datasets: [{quoted(subject.data_set)}]"
    yield f"tags: [{', '.join(quoted(tag) for tag in _tags(subject))}]"
    yield "---"


def quoted(text: str) -> str:
    """A YAML scalar, whatever the text holds: JSON's, with YAML's escape where JSON has two halves of one."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def is_folder(name: str) -> bool:
    """Whether a base model is a folder of some machine; a name on the hub has one slash at most."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_dir()


def _escaped(character: str) -> str:
    if ord(character) > LARGEST_OF_ONE_ESCAPE:
        return f"\\U{ord(character):08x}"
    return json.dumps(character)[1:-1]


def _license(subject: Subject) -> Iterator[str]:
    named = subject.license
    if not named or named in LICENSES:
        yield f"license: {named or 'unknown'}"
        return
    yield "license: other"
    yield f"license_name: {quoted(re.sub(r'[^a-z0-9.-]+', '-', named.lower()).strip('-') or 'unnamed')}"
    if subject.hub_base:
        yield f"license_link: {quoted(f'https://huggingface.co/{subject.hub_base}')}"


def _tags(subject: Subject) -> Iterator[str]:
    yield "ftcore"
    method = str(subject.adapter.get("peft_type") or "").lower()
    kinds = {artifact.kind for artifact in subject.artifacts if artifact.kind in LIBRARIES}
    yield from sorted({*kinds, *([method] if method else [])} - {"adapter"})


def _table(manifest: Manifest, name: str) -> Mapping[str, Any]:
    table = manifest.settings.get(name)
    return table if isinstance(table, Mapping) else {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
