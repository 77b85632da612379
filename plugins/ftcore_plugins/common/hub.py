"""Where a base model is found, which class it is loaded with, and what the hub's errors mean. Imports transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcore.api import FtcoreError, Loaded, RunError
from ftcore_plugins.common.hub_login import is_offline

SECONDS = 5.0  # to wait for a card that is nice to have


def base_place(loaded: Loaded, *, trusted: bool) -> dict[str, Any]:
    """How `from_pretrained` finds the base: a folder without a look at the hub, or a pinned revision.

    `trusted` says whether code of the hub may run.
    """
    place: dict[str, Any] = {"trust_remote_code": trusted}
    if Path(loaded.base).is_dir():
        return {**place, "local_files_only": True}
    return {**place, "revision": loaded.revision or None}


def reads_images(config: Any) -> bool:
    """Whether the model of this configuration takes images and text, and so has a processor."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def model_class(config: Any) -> Any:
    """The auto class that loads the weights."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def processor_class(config: Any) -> Any:
    """The auto class that loads the tokenizer, or the processor that has one."""
    from transformers import AutoProcessor, AutoTokenizer

    return AutoProcessor if reads_images(config) else AutoTokenizer


def license_of(base: str, revision: str) -> str:
    """The licence that the card of a base model names: of a folder, in the cache, or on the hub; empty if unknown.

    One that the hub has no word for is given by the name that the card gives it.
    """
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    if Path(base).is_dir():
        return _license_in(Path(base) / "README.md")
    try:
        cached = try_to_load_from_cache(base, "README.md", revision=revision or None)
        if isinstance(cached, str):
            return _license_in(Path(cached))
        if is_offline():
            return ""
        return _named(HfApi().model_info(base, revision=revision or None, timeout=SECONDS).card_data)
    except (OSError, ValueError, errors.HTTPError):  # a card is no reason not to train
        return ""


def _license_in(card: Path) -> str:
    import yaml
    from huggingface_hub.repocard import metadata_load

    try:
        return _named(metadata_load(card))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return ""


def _named(metadata: Any) -> str:
    values = dict(metadata.to_dict() if hasattr(metadata, "to_dict") else metadata or {})
    name = values.get("license")
    if name == "other":
        name = values.get("license_name") or name
    names = name if isinstance(name, list) else [name]
    return next((each for each in names if isinstance(each, str)), "")


@contextmanager
def hub_errors(model: str, revision: str) -> Iterator[None]:
    """Turn what goes wrong while something is loaded into a `RunError` of one sentence."""
    try:
        yield
    except FtcoreError:
        raise
    except Exception as error:  # tokenizers raises no narrower kind for a torn file
        raise RunError(_sentence(model, revision, error)) from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _sentence(model: str, revision: str, error: BaseException) -> str:
    from huggingface_hub import errors

    # transformers wraps the hub's error in an OSError of many lines.
    chain = list(causes(error))
    for kind, sentence in (
        (errors.GatedRepoError, "is gated; accept its terms at https://huggingface.co/{model} and set HF_TOKEN"),
        (errors.RevisionNotFoundError, "has no revision {revision!r}; look at model.revision"),
        (errors.RepositoryNotFoundError, "is not on the hub, or private; check the name, or set HF_TOKEN"),
        (errors.HFValidationError, "is neither a folder nor the name of a model on the hub"),
        (errors.LocalEntryNotFoundError, "is not in the cache and the hub is out of reach; run: hf download {model}"),
        (errors.OfflineModeIsEnabled, "is not in the cache and HF_HUB_OFFLINE is set; run: hf download {model}"),
    ):
        if any(isinstance(cause, kind) for cause in chain):
            return f"model.id: {model} {sentence.format(model=model, revision=revision)}"
    if "trust_remote_code" in str(error):
        return f"model.id: {model} brings its own code; read it, then set model.trust_remote_code and model.revision"
    return f"model.id: {model} cannot be loaded: {str(error).strip().partition(chr(10))[0]}"
