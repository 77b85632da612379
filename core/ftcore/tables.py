"""The tables of a profile that core owns: what several plugins must agree on.

Every option is an attrs field made by `option`; the reference in docs/options.md, the JSON schema and
`ftcore init` are printed from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import Factory
from attrs.validators import ge, gt, le, lt, optional

_RUNS = Path("runs")

__all__ = ["DataTable", "ExportTable", "HardwareTable", "ModelTable", "RunTable", "TrainTable", "option"]


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    folder_or_id: bool = False,
) -> Any:
    """An option of a profile table: a default, a sentence of help, and its bounds.

    Lists default to a tuple. `folder_or_id` marks a string that names a local folder (then it is made
    absolute against the file that it is written in) or something on a hub.
    """
    bounds: list[Any] = [
        make(limit) for make, limit in ((ge, at_least), (gt, above), (le, at_most), (lt, below)) if limit is not None
    ]
    validator = optional(bounds) if bounds else None
    metadata = {"help": help, "folder_or_id": folder_or_id}
    return attrs.field(default=default, validator=validator, metadata=metadata)


@attrs.frozen(kw_only=True)
class RunTable:
    """`[run]`: what the run is called, where it is written, and what it reports at its end."""

    name: str = option("", help="name of the run; the profile's file name if empty")
    output_dir: Path = option(_RUNS, help="folder that holds one folder for each run")
    cache_dir: Path | None = option(None, help="folder of prepared rows that runs share; ~/.cache/ftcore if unset")
    seed: int = option(42, at_least=0, at_most=2**32 - 1, help="seed of every random number of the run")
    samples: int = option(8, at_least=0, help="held-out rows to answer before and after training; 0 for none")
    sample_tokens: int = option(128, at_least=1, help="most tokens of one such answer")
    without: tuple[str, ...] = option(
        (), help='plugins that are on without a table, and shall not be, such as ["health"]'
    )


@attrs.frozen(kw_only=True)
class HardwareTable:
    """`[hardware]`: the machine. The named hardware profile lies under the whole profile."""

    profile: str | tuple[str, ...] = option(
        "auto",
        help="hardware profile: a name, a path, auto to pick by machine, or a list of them, of which a later one wins",
    )
    threads: int = option(0, at_least=0, help="CPU threads for tensor operations; 0 leaves it to torch")
    workers: int = option(0, at_least=0, help="processes that collate batches; 0 collates in the training process")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", help="device to train on; auto takes a GPU if any")
    processes: int = option(
        1, at_least=0, help="processes that train together on each machine; 0 starts one for each GPU"
    )
    machines: int = option(1, at_least=1, help="machines that train together; ftcore run is started on each of them")
    rendezvous: str = option("", help="host:port of the first machine, where several machines meet")
    rendezvous_timeout: float = option(300.0, above=0, help="seconds to wait for the other machines")
    heartbeat: float = option(
        600.0, above=0, help="seconds without a sign of a process after which all of them are ended"
    )
    max_restarts: int = option(
        3, at_least=0, help="times to start again from the last checkpoint after a process has died"
    )
    accelerate_config: Path | None = option(
        None, help="file of accelerate config (YAML), whose settings lie under this profile's"
    )
    card: str = option("", help="name of the graphics card, as its driver tells it (RTX 4090)")
    memory: float | None = option(
        None, above=0, help="memory of one device in GiB, which a plan must fit into; this machine's if unset"
    )
    tflops: float | None = option(
        None, above=0, help="dense bfloat16 (else float16) tera-operations a second of one device, by its data sheet"
    )


@attrs.frozen(kw_only=True)
class ModelTable:
    """`[model]`: the weights to start from."""

    id: str = option("", folder_or_id=True, help="hub id (meta-llama/Llama-3.2-1B) or a folder with a saved model")
    revision: str = option("", help="branch, tag or commit of a hub id; the default branch if empty")
    trust_remote_code: bool = option(False, help="run model code from the hub; needs a full commit as model.revision")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", help="type that frozen weights are kept in; auto is bfloat16 where the device has it, else float32"
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = option(
        "auto", help="attention implementation; auto leaves it to transformers"
    )


@attrs.frozen(kw_only=True)
class DataTable:
    """`[data]`: the rows to train on, and those held out to judge by."""

    path: Path | tuple[Path, ...] | None = option(
        None, help="file or folder with the rows, or a list of them: JSONL, JSON, CSV, TSV, Parquet or Arrow"
    )
    id: str = option("", help="hub id of a data set (tatsu-lab/alpaca), in the place of data.path")
    revision: str = option("", help="branch, tag or commit of data.id; the default branch if empty")
    split: str = option("", help="split to train on, of a folder or hub id that has several; train if empty")
    weights: tuple[float, ...] = option(
        (), help="how often the rows of each data.path come in one epoch, such as [1, 0.5]; once each if empty"
    )
    columns: Mapping[str, str] = option(
        Factory(dict), help='names for columns, such as { instruction = "prompt", output = "code" }'
    )
    validation: float = option(0.05, at_least=0, below=1, help="share of the rows that is held out of training")
    validation_path: Path | None = option(None, help="file or folder with the held-out rows, in place of a share")
    validation_split: str = option("", help="split with the held-out rows, in place of a share")
    group: str = option("", help="column whose rows of equal value are held out together, such as a module's name")
    max_rows: int | None = option(None, at_least=1, help="read at most this many rows, drawn by run.seed")
    max_bad_rows: int = option(0, at_least=0, help="broken rows to set aside in the run folder before giving up")
    long_rows: Literal["drop", "error", "cut"] = option(
        "drop", help="what to do with a row of over train.max_length tokens; cut takes them from the prompt's start"
    )
    workers: int = option(0, at_least=0, help="processes that format rows; 0 picks by cores and rows")


@attrs.frozen(kw_only=True)
class TrainTable:
    """`[train]`: the optimization, in terms that do not change with the machine."""

    learning_rate: float = option(2e-4, above=0, help="peak learning rate")
    epochs: float = option(1.0, above=0, help="passes over the training rows, unless max_steps is set")
    max_steps: int | None = option(None, at_least=1, help="optimizer steps; overrides epochs")
    batch_size: int = option(
        8, at_least=1, help="rows, or packed sequences, that one optimizer step sees, over all devices"
    )
    micro_batch_size: int | None = option(
        None, at_least=1, help="rows that fit on one device at once; batch_size if unset"
    )
    scheduler: Literal["cosine", "linear", "constant"] = option(
        "cosine", help="course of the learning rate after the warm-up"
    )
    warmup: float = option(0.03, at_least=0, help="steps of warm-up, or a share of all steps if under 1")
    weight_decay: float = option(0.0, at_least=0, help="weight decay of AdamW")
    max_grad_norm: float = option(1.0, at_least=0, help="gradients are clipped to this norm; 0 for no clipping")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "sgd"] = option(
        "adamw",
        help="optimizer; 8-bit ones keep a quarter of the state, paged ones move it to host memory when a GPU is full",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", help="precision of the arithmetic; auto is bf16 on a GPU that has it, else fp32"
    )
    max_length: int = option(2048, at_least=8, help="most tokens of one row; data.long_rows says what happens above")
    packing: bool = option(
        False, help="lay short rows end to end up to max_length; such a sequence counts as one row of batch_size"
    )
    activation_checkpointing: bool = option(False, help="compute activations again in the backward pass to save memory")
    log_steps: int = option(1, at_least=1, help="steps between two lines of metrics.jsonl; checkpoints have one, too")
    save_steps: int = option(200, at_least=0, help="steps between two checkpoints; 0 keeps only the last step's")
    save_limit: int = option(2, at_least=1, help="newest checkpoints to keep")
    eval_steps: int = option(0, at_least=0, help="steps between two evaluations on the held-out rows; 0 for none")
    eval_samples: int = option(8, at_least=0, help="held-out rows to answer and score at such an evaluation")
    eval_batch_size: int | None = option(
        None, at_least=1, help="rows that one device evaluates, or answers, at once; micro_batch_size if unset"
    )
    best_metric: str = option(
        "eval_loss", help="figure of an evaluation whose best checkpoint is never deleted, such as eval_exact"
    )
    load_best: bool = option(
        False, help="save a checkpoint at each evaluation, and end with the best one's weights rather than the last"
    )


@attrs.frozen(kw_only=True)
class ExportTable:
    """`[export]`: what every exporter agrees on."""

    verify: bool = option(True, help="load each artifact in its own runtime and compare it with the tuned model")
    base: Literal["dequantized", "original"] = option(
        "dequantized",
        help="what an adapter of a quantized model is merged into: the weights it was trained on, or the base model's",
    )
