"""Plugins without torch, for tests of the core: they train by arithmetic and write JSON checkpoints.

Faults come from the environment, so that they change no profile: `LIGHT_FAULT=export=ValueError` raises in
the hook `export`, `step:7=SystemExit` in the training loop before step 7. `LIGHT_PAUSE` is a sleep a step.
"""

from __future__ import annotations

import builtins
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import (
    MASKED,
    Artifact,
    Control,
    Decision,
    Drop,
    Example,
    Format,
    Loaded,
    Outcome,
    OutOfMemoryError,
    PreparedData,
    Problem,
    Proof,
    Row,
    RowLoss,
    Run,
    RunError,
    Step,
    StopRequest,
    Verdict,
    hookimpl,
    option,
)

PAD, END = 0, 3


def fault(place: str) -> None:
    """`LIGHT_FAULT_RANK` says on which of several processes, and `LIGHT_FAULT_ONCE` that a restart goes well."""
    where, _, kind = os.environ.get("LIGHT_FAULT", "").partition("=")
    if os.environ.get("LIGHT_FAULT_ONCE") and os.environ.get("FTCORE_RESTART", "0") != "0":
        return
    if where == place and os.environ.get("LIGHT_FAULT_RANK", os.environ.get("RANK")) == os.environ.get("RANK"):
        if kind.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[kind])
            return
        if kind == "OutOfMemory":
            raise OutOfMemoryError("light fault", smaller=1)
        error = RunError if kind == "RunError" else getattr(builtins, kind)
        raise error(0 if kind == "SystemExit" else f"light fault in {place}")


class Characters:
    """A tokenizer: each character is a token."""

    def decode(
        self, tokens: Sequence[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = True
    ) -> str:
        kept = [token for token in tokens if not (skip_special_tokens and token in (PAD, END))]
        return "".join(chr(token) for token in kept)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]


class Tensor:
    """As much of a tensor as the core may use."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows

    def tolist(self) -> list[list[int]]:
        return [list(row) for row in self._rows]


def example(row: Row) -> Example:
    """Prompt masked, reply and its end trained."""
    prompt, reply = ([ord(letter) for letter in row.values[name]] for name in ("prompt", "reply"))
    return Example(
        input_ids=[*prompt, *reply, END],
        labels=[*[MASKED] * len(prompt), *reply, END],
        replies=(row.values["reply"],),
        origin=row.origin,
    )


def encoded(rows: Sequence[Row], train_prompt: bool) -> list[Example]:
    examples = [example(row) for row in rows]
    return [attrs.evolve(each, labels=each.input_ids) for each in examples] if train_prompt else examples


def questions(rows: Sequence[Row]) -> list[Example | Drop]:
    def asked(row: Row) -> Example:
        whole = attrs.evolve(row, values={"reply": "?", **row.values})
        return example(whole) if "reply" in row.values else attrs.evolve(example(whole), replies=())

    return [asked(row) if row.values["prompt"] else Drop(origin=row.origin, reason="nothing is asked") for row in rows]


def question(prompt: str, images: Sequence[str]) -> Mapping[str, str]:
    if images:
        raise RunError("--image: there is no place for it")
    return {"prompt": prompt}


def collate(examples: Sequence[Example]) -> Mapping[str, Tensor]:
    longest = max(len(each.input_ids) for each in examples)

    def padded(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (longest - len(values))]

    return {
        "input_ids": Tensor([padded(each.input_ids, PAD) for each in examples]),
        "labels": Tensor([padded(each.labels, MASKED) for each in examples]),
        "attention_mask": Tensor([padded([1] * len(each.input_ids), 0) for each in examples]),
    }


class LightRows:
    """Rows of a JSONL file."""

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        fault("check")
        path = run.profile.data.path
        if path is None or not path.is_file():
            return [Problem(key="data.path", message=f"no such file: {path}")]
        return []

    @hookimpl
    def load_rows(self, run: Run) -> Sequence[Row]:
        fault("load_rows")
        path = run.profile.data.path
        assert path is not None
        lines = path.read_text("utf-8").splitlines()
        return [Row(values=json.loads(line), origin=f"{path.name}:{n}") for n, line in enumerate(lines, start=1)]


@attrs.frozen(kw_only=True)
class FormatConfig:
    train_prompt: bool = option(False, help="label the prompt too, which is wrong")


class LightFormat:
    """A character-level tokenizer and its rows."""

    Config = FormatConfig

    def __init__(self, config: FormatConfig) -> None:
        self.config = config

    @hookimpl
    def load_processor(self) -> Characters:
        fault("load_processor")
        return Characters()

    @hookimpl
    def format_dataset(self, processor: Characters) -> Format:
        fault("format_dataset")
        encode = functools.partial(encoded, train_prompt=self.config.train_prompt)
        return Format(
            encode=encode, collate=collate, processor=processor, end_of_turn=END, ask=questions, question=question
        )


class LightModel:
    """One number, and an adapter that is none."""

    @hookimpl
    def load_model(self, processor: Any) -> Loaded:
        fault("load_model")
        revision = os.environ.get("LIGHT_REVISION", "r1")
        return Loaded(model={"weight": 1.0}, processor=processor, base="light/model", revision=revision, license="mit")

    @hookimpl
    def adapt(self, loaded: Loaded) -> Loaded:
        fault("adapt")
        return attrs.evolve(loaded, adapter="light")


@attrs.frozen(kw_only=True)
class TrainerConfig:
    shrink: float = option(0.9, above=0, help="what is left of the weight after a step")


class LightTrainer:
    """Trains by arithmetic: every step depends on its batch, on the step before, and on a random stream."""

    Config = TrainerConfig

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    @hookimpl
    def training_args(self) -> Mapping[str, Any]:
        fault("training_args")
        return {"shrink": self.config.shrink}

    @hookimpl
    def make_trainer(self, run: Run, loaded: Loaded, data: PreparedData, args: Mapping[str, Any]) -> Arithmetic:
        fault("make_trainer")
        if run.world.size > 1:
            from light_ranks import Team

            return Team(run, loaded, data, args["shrink"])
        return Arithmetic(run, loaded, data, args["shrink"])


def both(decision: Decision, more: Decision) -> Decision:
    """What either of them asks for."""
    return Decision(checkpoint=decision.checkpoint or more.checkpoint, stop=decision.stop or more.stop)


class Arithmetic:
    def __init__(self, run: Run, loaded: Loaded, data: PreparedData, shrink: float) -> None:
        self._run, self._loaded, self._model, self._data, self._shrink = run, loaded, loaded.model, data, shrink

    @property
    def total_steps(self) -> int:
        return self._run.profile.train.max_steps or 10

    def train(self, control: Control, checkpoint: Path | None) -> int:
        state = {"step": 0, "weight": self._model["weight"], "noise": self._run.profile.run.seed}
        if checkpoint is not None:
            state = json.loads((checkpoint / "state.json").read_text("utf-8"))
            self._model["weight"] = state["weight"]
        while state["step"] < self.total_steps:
            state = self._step(state)
            self._model["weight"] = state["weight"]
            if self._obey(control, control.step_ended(self._report(state)), state):
                break
        return int(state["step"])

    def _step(self, state: dict[str, Any]) -> dict[str, Any]:
        number = state["step"] + 1
        fault(f"step:{number}")
        time.sleep(float(os.environ.get("LIGHT_PAUSE", "0")))
        tokens = self._data.train[number % len(self._data.train)].input_ids
        noise = (state["noise"] * 1103515245 + 12345) % 2**31
        weight = state["weight"] * self._shrink + sum(tokens) % 89 / 1000 + noise / 2**40
        return {"step": number, "weight": weight, "noise": noise}

    def _report(self, state: Mapping[str, Any]) -> Step:
        metrics = {"loss": state["weight"], "learning_rate": 1e-3}
        return Step(number=state["step"], total=self.total_steps, epoch=state["step"] / 10, metrics=metrics)

    def _obey(self, control: Control, decision: Decision, state: Mapping[str, Any]) -> bool:
        if decision.evaluate:
            decision = both(decision, control.evaluated(state["step"], self.evaluate()))
        if decision.checkpoint:
            with control.checkpoint(state["step"]) as folder:
                (folder / "state.json").write_text(json.dumps(state), "utf-8")
                fault(f"checkpoint:{state['step']}")
                (folder / "weights").mkdir()
                (folder / "weights" / "part.bin").write_bytes(repr(state["weight"]).encode() * 100)
        return decision.stop

    def evaluate(self) -> Mapping[str, float]:
        return {"eval_loss": abs(self._model["weight"])}

    def losses(self, examples: Sequence[Example]) -> Sequence[RowLoss]:
        counts = [sum(label != MASKED for label in each.labels) for each in examples]
        return [RowLoss(nats=abs(self._model["weight"]) * count, tokens=count) for count in counts]

    def generate(self, examples: Sequence[Example], max_new_tokens: int, temperature: float = 0.0) -> Sequence[str]:
        if temperature:
            return [f"{temperature:g} {each.origin}"[:max_new_tokens] for each in examples]
        return [f"{self._model['weight']:.3f} to {each.origin}"[:max_new_tokens] for each in examples]

    def load(self, folder: Path) -> None:
        fault("load")
        state = next(path for name in ("state.json", "weight.json") if (path := folder / name).is_file())
        self._model["weight"] = json.loads(state.read_text("utf-8"))["weight"]

    def save(self, folder: Path) -> Loaded:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.json").write_text(json.dumps(self._model), "utf-8")
        return self._loaded


@attrs.frozen(kw_only=True)
class ExportConfig:
    verdict: str = option("proved", help="verdict of the proof")


class LightExport:
    """Writes a file and says what it is told to say about it."""

    Config = ExportConfig

    def __init__(self, config: ExportConfig) -> None:
        self.config = config

    @hookimpl
    def export(self, saved: Path, exports: Path) -> Artifact:
        fault("export")
        path = exports / "light.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((saved / "weight.json").read_bytes())
        verdict = Verdict(self.config.verdict)
        return Artifact(kind="light", path=path, proof=Proof(verdict=verdict, figures={"difference": 0.25}))


class LightReference:
    """Writes down the weight that answers."""

    @hookimpl
    def write_reference(self, loaded: Loaded, data: PreparedData | None, folder: Path) -> None:
        fault("write_reference")
        known = {"weight": loaded.model["weight"], "rows": data is not None}
        (folder / "light.json").write_text(json.dumps(known), "utf-8")


@attrs.frozen(kw_only=True)
class PackConfig:
    quantization: tuple[str, ...] = option(("whole",), help="how many digits are kept: whole or short")
    spoil: bool = option(False, help="write another number")
    bytes: int | None = option(None, help="bytes that it says it writes")


class LightPack:
    """Writes the weight as files in a folder of its own, and reads them back."""

    Config = PackConfig

    def __init__(self, config: PackConfig) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        unknown = set(self.config.quantization) - {"whole", "short"}
        return [Problem(key="plugin.light_pack.quantization", message=f"unknown: {name}") for name in sorted(unknown)]

    @hookimpl
    def export_size(self) -> int | None:
        return self.config.bytes

    @hookimpl
    def export(self, loaded: Loaded, exports: Path) -> Sequence[Artifact]:
        fault("pack")
        work = exports / ".work"
        work.mkdir()
        (work / "shared").touch()
        return [self._write(loaded.model["weight"], name, exports / "pack") for name in self.config.quantization]

    def _write(self, weight: float, name: str, folder: Path) -> Artifact:
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.pack"
        weight = weight + 1 if self.config.spoil else weight
        path.write_text(f"{weight!r}" if name == "whole" else f"{weight:.3f}", "utf-8")
        return Artifact(kind="pack", path=path, details={"quantization": name, "run": f"unpack {name}"})

    @hookimpl
    def verify(self, artifact: Artifact, reference: Path) -> Proof | None:
        fault("verify")
        if artifact.kind != "pack" and artifact.path.suffix != ".pack":
            return None
        wanted = json.loads((reference / "light.json").read_text("utf-8"))["weight"]
        far = abs(float(artifact.path.read_text("utf-8")) - wanted)
        return Proof(verdict=Verdict.PROVED if far < 0.001 else Verdict.FAILED, figures={"far": far})


class LightHub:
    """Sends artifacts to nowhere."""

    @hookimpl
    def publish(self, run: Run, artifacts: Sequence[Artifact], saved: Path) -> str:
        fault("publish")
        names = sorted(artifact.path.name for artifact in artifacts)
        return f"light://{saved.relative_to(run.folder)}/{'+'.join(names)}"


@attrs.frozen(kw_only=True)
class DiaryConfig:
    path: Path = option(help="file to write each event to, as JSON lines")
    stop_at: int | None = option(None, at_least=1, help="step to ask for a stop at")


class LightDiary:
    """An observer that writes down what it sees."""

    Config = DiaryConfig

    def __init__(self, config: DiaryConfig) -> None:
        self.config = config

    @hookimpl
    def run_started(self, run: Run, settings: Mapping[str, Any]) -> None:
        self._write(hook="run_started", seed=settings["run"]["seed"], resumed=run.resumed)
        fault("run_started")

    @hookimpl
    def on_step(self, step: Step) -> StopRequest | None:
        self._write(hook="on_step", step=step.number)
        fault("on_step")
        return StopRequest(reason="seen enough") if step.number == self.config.stop_at else None

    @hookimpl
    def run_ended(self, outcome: Outcome) -> None:
        self._write(hook="run_ended", state=outcome.state, reason=outcome.reason, step=outcome.step)
        fault("run_ended")

    def _write(self, **event: Any) -> None:
        with self.config.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


class LightScore:
    """Scores the length of answers."""

    @hookimpl
    def score(self, predictions: Sequence[Any]) -> Mapping[str, float]:
        fault("score")
        return {"answered": sum(bool(each.answer) for each in predictions) / len(predictions)}


class LightLaunch:
    """Starts one worker and waits."""

    @hookimpl
    def launch(self, command: Sequence[str]) -> int:
        fault("launch")
        return subprocess.call(command)


def events(path: Path) -> Iterator[dict[str, Any]]:
    """What a diary holds."""
    return (json.loads(line) for line in path.read_text("utf-8").splitlines())
