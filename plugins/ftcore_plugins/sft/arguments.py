"""What a profile says, in the words of TRL's `SFTConfig`. Imports TRL."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from trl import SFTConfig

from ftcore.api import Run, RunError
from ftcore_plugins.common.devices import device_of, precision_of
from ftcore_plugins.sft import Options
from ftcore_plugins.sft.kernels import liger_arguments

SCHEDULERS = {"constant": "constant_with_warmup"}  # transformers' own "constant" passes over the warm-up
ENDINGS = {"cosine": ("cosine_with_min_lr", "min_lr"), "linear": ("polynomial", "lr_end")}  # of power 1
OPTIMIZERS = {"adamw": "adamw_torch_fused", "paged_adamw": "paged_adamw_32bit"}  # the others are called the same

# The engine decides on these, or our trainer replaces what they steer: to take them would be to ignore them.
OWNED = frozenset(
    {
        *("output_dir", "max_steps", "num_train_epochs", "resume_from_checkpoint", "auto_find_batch_size"),
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "load_best_model_at_end"),
        *("eval_strategy", "eval_steps", "eval_on_start", "per_device_eval_batch_size"),
        *("logging_strategy", "logging_steps", "logging_nan_inf_filter", "report_to", "disable_tqdm"),
        *(
            "seed",
            "data_seed",
            "train_sampling_strategy",
            "ignore_data_skip",
            "max_length",
            "packing",
            "padding_free",
            "loss_type",
        ),
        *("dataset_kwargs", "remove_unused_columns", "completion_only_loss", "assistant_only_loss", "push_to_hub"),
    }
)


def sft_config(run: Run, rows: int, config: Options, args: Mapping[str, Any]) -> SFTConfig:
    """The trainer's arguments for `rows` training rows; `args` win.

    Raises `RunError` for an argument that TRL does not know or that the engine owns, and for values
    that TRL refuses.
    """
    _require_known(args)
    settings = {**_settings(run, rows, config), **args}
    try:
        made = SFTConfig(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise RunError(f"the trainer refuses its arguments: {_first_line(error)}") from error
    # With several GPUs in sight of one process, transformers would split each batch among them in threads.
    made._n_gpu = min(made.n_gpu, 1)
    return made


def _settings(run: Run, rows: int, config: Options) -> dict[str, Any]:
    device, precision, train = device_of(run), precision_of(run), run.profile.train
    micro, accumulation = split_batch(run)
    return {
        "output_dir": str(run.folder),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": train.eval_batch_size or micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": total_steps(run, rows),
        "learning_rate": train.learning_rate,
        **_schedule(train.scheduler, config.final_learning_rate),
        "warmup_steps": train.warmup,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": _optimizer(train.optimizer, device),
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "neftune_noise_alpha": config.neftune_noise or None,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "activation_checkpointing": train.activation_checkpointing,
        "use_cpu": device == "cpu",
        "dataloader_num_workers": run.profile.hardware.workers,
        "dataloader_pin_memory": device == "cuda",
        "seed": run.profile.run.seed,
        "data_seed": run.profile.run.seed,
        "ddp_broadcast_buffers": False,  # they do not change while training
        **liger_arguments(config, device),
        **_left_to_the_engine(),
    }


def _schedule(name: str, final: float) -> dict[str, Any]:
    """What ends at 0 by itself is given another end by another name."""
    if not final:
        return {"lr_scheduler_type": SCHEDULERS.get(name, name)}
    kind, end = ENDINGS[name]
    return {"lr_scheduler_type": kind, "lr_scheduler_kwargs": {end: final}}


def _optimizer(name: str, device: str) -> str:
    return "adamw_torch" if (name, device) == ("adamw", "mps") else OPTIMIZERS.get(name, name)


def _left_to_the_engine() -> dict[str, Any]:
    return {
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
    }


def split_batch(run: Run) -> tuple[int, int]:
    """Rows of a micro-batch, and micro-batches of one optimizer step on each device.

    Raises `RunError` when the global batch does not come out whole.
    """
    train, world = run.profile.train, run.world.size
    share = max(1, train.batch_size // world)
    micro = min(train.micro_batch_size or share, share)  # a machine may hold more than a small batch has
    if train.batch_size % (micro * world):
        shares = f"micro_batch_size {micro} x {world} processes"
        raise RunError(f"train.batch_size: {train.batch_size} is not a multiple of {shares}; change one of them")
    return micro, train.batch_size // (micro * world)


def total_steps(run: Run, rows: int) -> int:
    """Optimizer steps of the whole run: `max_steps`, else what the epochs come to."""
    train = run.profile.train
    return train.max_steps or math.ceil(train.epochs * math.ceil(rows / train.batch_size))


def _require_known(args: Mapping[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    for name in args:
        if name not in known:
            raise RunError(f"training_args: the trainer has no argument {name!r}{_nearest(name, known)}")
        if name in OWNED:
            raise RunError(f"training_args: {name!r} is set from the profile's core tables; leave it out")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
