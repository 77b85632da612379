"""Settings that contradict each other, and settings that are legal but rarely meant."""

from __future__ import annotations

from collections.abc import Iterator

from ftcore.structure import KeyPath
from ftcore.tables import TrainTable
from ftcore.values import Profile

Finding = tuple[KeyPath, str]

HIGH_LEARNING_RATE = 1e-2
LOW_LEARNING_RATE = 1e-7
MANY_EPOCHS = 50
LARGE_BATCH = 4096
LONG_NAME = 128
MOST_WEIGHT = 100

LOSSES = ("eval_loss", "eval_perplexity")
"""Figures of an evaluation of which less is better; of any other one, more is."""


def contradictions(profile: Profile) -> Iterator[Finding]:
    """What can never work, whatever the data is."""
    name = profile.run.name
    if name in (".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > LONG_NAME:
        yield ("run", "name"), f"must be one folder name of at most {LONG_NAME} printable characters"
    train = profile.train
    micro = train.micro_batch_size
    if micro is not None and micro <= train.batch_size and train.batch_size % micro:
        text = f"{micro} does not divide train.batch_size = {train.batch_size}; choose a divisor"
        yield ("train", "micro_batch_size"), text
    if train.max_steps is not None and train.warmup >= 1 and train.warmup > train.max_steps:
        text = f"{train.warmup:g} steps of warm-up exceed train.max_steps = {train.max_steps}; shorten it"
        yield ("train", "warmup"), text
    if train.eval_steps and not _holds_out(profile):
        yield ("train", "eval_steps"), "no rows are held out to evaluate on; set data.validation, or eval_steps = 0"
    yield from _never_measured(train)
    data = profile.data
    if data.validation_path and data.validation_split:
        yield ("data", "validation_split"), "data.validation_path holds out other rows; keep one of them"
    if any(not 0 < weight <= MOST_WEIGHT for weight in data.weights):
        text = f"a weight must be above 0 and at most {MOST_WEIGHT}; leave out a path that is not to be read"
        yield ("data", "weights"), text
    if train.precision == "fp16" and profile.hardware.device in ("cpu", "mps"):
        yield ("train", "precision"), f"fp16 needs a CUDA device, not {profile.hardware.device}; use fp32 or bf16"


def doubts(profile: Profile) -> Iterator[Finding]:
    """What is probably a slip; the run goes on."""
    train = profile.train
    if train.learning_rate > HIGH_LEARNING_RATE:
        yield ("train", "learning_rate"), f"{train.learning_rate:g} is unusually high; 1e-5 to 1e-3 is common"
    if train.learning_rate < LOW_LEARNING_RATE:
        yield ("train", "learning_rate"), f"{train.learning_rate:g} is unusually low; 1e-5 to 1e-3 is common"
    if train.max_steps is None and train.epochs > MANY_EPOCHS:
        yield ("train", "epochs"), f"{train.epochs:g} passes will likely memorise the rows; 1 to 5 is common"
    if train.batch_size > LARGE_BATCH:
        yield ("train", "batch_size"), f"{train.batch_size} is unusually large; 8 to 256 is common"
    if not train.max_grad_norm > 0:
        yield ("train", "max_grad_norm"), "gradients are not clipped; 1.0 is common"
    if not _holds_out(profile):
        yield ("data", "validation"), "no rows are held out, so losses before and after cannot be compared"


def _never_measured(train: TrainTable) -> Iterator[Finding]:
    """What the best checkpoint cannot be chosen by."""
    metric = train.best_metric
    if train.load_best and not train.eval_steps:
        text = "no evaluation says which checkpoint is the best; set train.eval_steps, or load_best = false"
        yield ("train", "load_best"), text
    if metric in LOSSES:
        return
    if not metric.startswith("eval_") or "/" in metric:
        text = f"{metric!r} is none of an evaluation's figures: eval_loss, eval_perplexity, or eval_NAME of a score"
        yield ("train", "best_metric"), text
    elif not train.eval_steps or not train.eval_samples:
        lacking = "eval_samples" if train.eval_steps else "eval_steps"
        yield ("train", "best_metric"), f"{metric} is never measured; set train.{lacking}"


def _holds_out(profile: Profile) -> bool:
    data = profile.data
    return bool(data.validation or data.validation_path or data.validation_split)
