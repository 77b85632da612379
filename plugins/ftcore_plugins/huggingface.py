"""Loads a model and its tokenizer with transformers, from the hub or a folder: the fallback loader."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Loaded, ModelTable, Problem, Quantization, Run, RunError, hookimpl
from ftcore_plugins.common.hub_login import find_token, hub_cache, is_offline
from ftcore_plugins.common.requirements import missing

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
COMMIT = re.compile(r"[0-9a-f]{40}")

# Tokens that families keep for padding, or for nothing yet; the first that a tokenizer has becomes its padding.
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|reserved_special_token_0|>")


class HuggingFace:
    """Reads `model.id` by transformers' auto classes; weights are read from safetensors only.

    It has no options of its own: the `[model]` table says it all.
    """

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The model must be named, complete in its folder, and reachable on the hub."""
        model = run.profile.model
        found = missing("huggingface", "train", "torch", "transformers")
        return [*found, *_code_problems(model), *_place_problems(model)]

    @hookimpl
    def load_processor(self, run: Run) -> Any:
        """The tokenizer, or the processor of a model that reads images; it always has a padding token."""
        from ftcore_plugins.common.hub import hub_errors, processor_class
        from ftcore_plugins.common.quiet import no_progress_bars

        model = run.profile.model
        with hub_errors(model.id, model.revision), no_progress_bars():
            config = _config_of(model)
            processor = processor_class(config).from_pretrained(model.id, **_where(model))
        choose_padding(getattr(processor, "tokenizer", processor))
        _require_room(config, run.profile.train.max_length)
        return processor

    @hookimpl
    def sketch_model(self, run: Run) -> Loaded:
        """The model on the meta device, in the type that its weights would be read in; reads the config alone."""
        from ftcore_plugins.common.devices import dtype_of
        from ftcore_plugins.common.hub import hub_errors
        from ftcore_plugins.common.saved import saved_as
        from ftcore_plugins.common.sketch import sketch

        table = run.profile.model
        with hub_errors(table.id, table.revision):
            config = _config_of(table)
            model = sketch(config, dtype_of(run), trust_remote_code=table.trust_remote_code)
        saved = saved_as(config, model)
        return Loaded(model=model, processor=None, base=table.id, revision=_commit_of(config, table), saved=saved)

    @hookimpl
    def load_model(self, run: Run, processor: Any, quantization: Quantization | None) -> Loaded:
        """Read the weights in `model.dtype`. Raises `RunError` when some are not in the files."""
        import torch

        from ftcore_plugins.common.devices import dtype_of
        from ftcore_plugins.common.hub import hub_errors, license_of, model_class
        from ftcore_plugins.common.quiet import no_progress_bars
        from ftcore_plugins.common.saved import read_whole

        table = run.profile.model
        # transformers would ask a service of the hub to convert pickled weights, and load what it answers.
        os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
        options: dict[str, Any] = {"dtype": dtype_of(run), "use_safetensors": True, **_where(table)}
        if table.attention != "auto":
            options["attn_implementation"] = table.attention
        options |= quantization.options if quantization else {}
        with hub_errors(table.id, table.revision), no_progress_bars(), torch.random.fork_rng():
            config = read_whole(_config_of(table))
            kind = model_class(config)
            model, report = kind.from_pretrained(table.id, config=config, output_loading_info=True, **options)
        if report["missing_keys"]:
            name = min(report["missing_keys"])
            raise RunError(f"model.id: {table.id} has no weights for {name} and would train random ones; name another")
        commit = _commit_of(model.config, table)
        terms = license_of(table.id, commit)
        return Loaded(model=model, processor=processor, base=table.id, revision=commit, license=terms)


def choose_padding(tokenizer: Any) -> None:
    """Give a tokenizer without padding one: a token kept for it, else its end token.

    The end token is safe, because labels are masked by position and not by token.
    """
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in PAD_TOKENS if token in vocabulary), tokenizer.eos_token)


def _commit_of(config: Any, table: ModelTable) -> str:
    """The commit that a branch stands for today, so that the adapter finds the same weights tomorrow."""
    return getattr(config, "_commit_hash", None) or table.revision


def _require_room(config: Any, max_length: int) -> None:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions and max_length > positions:
        raise RunError(f"train.max_length: {max_length} is over the {positions} positions of the model; lower it")


def _require_own_code(model: ModelTable) -> None:
    """A pinned revision pins only its own repository: code that it names in another one would not be pinned."""
    from transformers import PreTrainedConfig

    values, _ = PreTrainedConfig.get_config_dict(model.id, **_where(model))
    foreign = sorted(str(name) for name in (values.get("auto_map") or {}).values() if "--" in str(name))
    if foreign:
        raise RunError(f"model.trust_remote_code: {model.id} runs code of another repository ({foreign[0]}); refused")


def _config_of(model: ModelTable) -> Any:
    from transformers import AutoConfig

    if model.trust_remote_code:
        _require_own_code(model)
    return AutoConfig.from_pretrained(model.id, **_where(model))


def _where(model: ModelTable) -> dict[str, Any]:
    place: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if _is_folder(model.id):
        return {**place, "local_files_only": True}  # transformers asks the hub about folders, too
    return {**place, "revision": model.revision or None}


def _is_folder(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or Path(name).is_dir()


# Checks: the operating system only


def _code_problems(model: ModelTable) -> Iterator[Problem]:
    if model.trust_remote_code and not _is_folder(model.id) and not COMMIT.fullmatch(model.revision):
        message = "runs code from the hub, which may change; set model.revision to a full commit (40 hex digits)"
        yield Problem(key="model.trust_remote_code", message=message)


def _place_problems(model: ModelTable) -> Iterable[Problem]:
    if not model.id:
        return [Problem(key="model.id", message="not set; name a model on the hub, or a folder with a saved one")]
    message = _folder_fault(Path(model.id)) if _is_folder(model.id) else ""
    if message:
        return [Problem(key="model.id", message=message)]
    return [] if _is_folder(model.id) else _hub_problems(model)


def _folder_fault(folder: Path) -> str:
    if not folder.is_dir():
        return f"no such folder: {folder}"
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        adapter = " (it holds an adapter; name the model that it belongs to)" if "adapter_config.json" in names else ""
        return f"{folder} has no config.json{adapter}; name a folder that save_pretrained wrote"
    if not names & set(TOKENIZER_FILES):
        return f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}); copy the model's own into it"
    if not any(name.endswith(".safetensors") for name in names):
        pickled = "; its .bin files are pickles, convert them" if any(name.endswith(".bin") for name in names) else ""
        return f"{folder} has no weights (*.safetensors){pickled}"
    return ""


def _hub_problems(model: ModelTable) -> Iterator[Problem]:
    if _is_cached(model):
        return
    if is_offline():
        place = f"{model.id} is not in {hub_cache()} and HF_HUB_OFFLINE is set; run: hf download {model.id}"
        yield Problem(key="model.id", message=place)
    elif not find_token():
        message = f"no HF_TOKEN: if {model.id} is gated, the hub will refuse it; set HF_TOKEN or run: hf auth login"
        yield Problem(key="model.id", message=message, severity="warning")


def _is_cached(model: ModelTable) -> bool:
    folder = hub_cache() / f"models--{model.id.replace('/', '--')}"
    wanted = model.revision or "main"
    return (folder / "refs" / wanted).is_file() or (folder / "snapshots" / wanted).is_dir()
