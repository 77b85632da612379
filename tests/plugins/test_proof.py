"""The comparison, its verdict and the process: what is rounding, what is a fault, and what a runtime may do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from ftcore.api import RunError, Verdict
from ftcore_plugins.common.proof.comparison import AnswerError, Findings, compare, divergence, margin
from ftcore_plugins.common.proof.process import ask
from ftcore_plugins.common.proof.questions import Distribution
from ftcore_plugins.common.proof.reference import (
    ChatProbe,
    Continuation,
    ImageProbe,
    Passage,
    Reference,
    TextProbe,
    read_reference,
    write_reference,
)
from ftcore_plugins.common.proof.verdict import EXACT, ROUNDED, Gate, judge, whole_gate

GATE = Gate(kl_mean=1e-3, margin=0.1, image_kl=1e-2)
STOP = 4


def row(*weights: float) -> Any:
    return np.log(np.array(weights, np.float32) / sum(weights))


SURE, TORN, OTHER = row(90, 4, 3, 2, 1), row(50, 48, 1, 0.5, 0.5), row(4, 90, 3, 2, 1)
REFERENCE = Reference(
    vocabulary=5,
    exact=True,
    stops=(STOP,),
    texts=(TextProbe(text="a b", ids=(1, 2)),),
    chats=(ChatProbe(messages=({"role": "user", "content": "hello"},), ids=(3, 1)),),
    passages=(Passage(ids=(1, 2, 3), positions=(0, 2), log_probabilities=np.stack([SURE, TORN])),),
    continuations=(Continuation(prompt=(1,), ids=(2, 3, STOP), margins=(2.0, 0.01, 3.0)),),
    images=(ImageProbe(image="square.png", prompt="<img>", placeholder="<img>", log_probabilities=SURE),),
)


@attrs.frozen
class Fake:
    """A runtime whose answers are written down."""

    text: Sequence[int] = (1, 2)
    chat: Sequence[int] = (3, 1)
    rows: Sequence[Any] = (SURE, TORN)
    after: Sequence[int] = (2, 3, STOP)
    image: Any = SURE
    cannot: frozenset[str] = frozenset()

    def tokens(self, text: str) -> Sequence[int]:
        return self._unless("texts", self.text)

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        return self._unless("chat", self.chat)

    def distributions(self, ids: Sequence[int], positions: Sequence[int]) -> Sequence[Distribution]:
        return [Distribution(log_probabilities=found) for found in self._unless("passages", self.rows)]

    def greedy(self, prompt: Sequence[int], count: int) -> Sequence[int]:
        return self._unless("greedy", self.after[:count])

    def image_distribution(self, probe: ImageProbe, image: Path) -> Distribution:
        assert image.name == probe.image
        return Distribution(log_probabilities=self._unless("images", self.image))

    def _unless(self, name: str, answer: Any) -> Any:
        if name in self.cannot:
            raise NotImplementedError
        return answer


def proof(runtime: Fake, reference: Reference = REFERENCE) -> Any:
    return judge(compare(reference, Path("folder"), runtime), GATE, "q8_0")


# What is rounding, and what is not


def test_the_same_answers_are_proved() -> None:
    found = proof(Fake())
    assert found.verdict is Verdict.PROVED
    assert found.note == "q8_0, gate 0.001 on kl_mean"
    assert found.figures == {"kl_mean": 0.0, "kl_max": 0.0, "top1_agreement": 1.0, "positions": 2.0, "image_kl": 0.0}


@pytest.mark.parametrize(
    ("runtime", "note"),
    [
        (Fake(text=(1, 9)), "it takes 'a b' apart into other tokens"),
        (Fake(chat=(3,)), "its chat template gives other tokens for 'hello'"),
        (Fake(rows=(OTHER, TORN)), "its answers differ from the tuned model's, gate 0.001 on kl_mean"),
        (Fake(rows=(SURE + np.nan, TORN)), "it answers with what is no number (NaN) or infinite"),
        (Fake(rows=(SURE + np.inf, TORN)), "it answers with what is no number (NaN) or infinite"),
        (Fake(rows=(SURE[:4], TORN)), "it has 4 tokens, and the tuned model 5"),
        (Fake(after=(0, 3, STOP)), "it prefers another token where the tuned model is sure by 2 nats"),
        (Fake(after=(2, 3, 1)), "it prefers another token where the tuned model is sure by 3 nats"),
        (Fake(after=()), "it prefers another token where the tuned model is sure by 2 nats"),
        (Fake(image=OTHER), "it sees an image otherwise, gate 0.01 on image_kl"),
    ],
)
def test_what_fails(runtime: Fake, note: str) -> None:
    found = proof(runtime)
    assert found.verdict is Verdict.FAILED
    assert found.note == f"q8_0: {note}"


def test_a_torn_choice_may_tip_over() -> None:
    assert proof(Fake(after=(2, 0, 0))).verdict is Verdict.PROVED  # parts where the margin is 0.01
    assert proof(Fake(after=(2, 3))).verdict is Verdict.PROVED  # the stop token is left out
    tipped = proof(Fake(rows=(SURE, row(48.9, 49.1, 1, 0.5, 0.5))))
    assert tipped.verdict is Verdict.PROVED
    assert tipped.figures["top1_agreement"] == 0.5


@pytest.mark.parametrize("question", ["texts", "chat", "passages", "greedy", "images"])
def test_what_was_not_asked_is_not_proved(question: str) -> None:
    found = proof(Fake(cannot=frozenset({question})))
    assert found.verdict is Verdict.NOT_PROVED
    assert found.note == f"q8_0: not compared: {question}"


def test_what_the_tuned_model_could_not_be_asked_is_not_proved_either() -> None:
    found = proof(Fake(), attrs.evolve(REFERENCE, images=(), unasked=("images",)))
    assert (found.verdict, found.note) == (Verdict.NOT_PROVED, "q8_0: not compared: images")
    found = proof(Fake(), attrs.evolve(REFERENCE, passages=()))
    assert (found.verdict, found.note) == (Verdict.NOT_PROVED, "q8_0: not compared: passages")


def test_a_template_with_the_date_is_compared_on_its_day() -> None:
    today = attrs.evolve(REFERENCE, day=date.today().isoformat())
    older = attrs.evolve(REFERENCE, day="2001-01-01")
    assert proof(Fake(chat=(3,)), today).verdict is Verdict.FAILED
    assert proof(Fake(chat=(3,)), older).note == "q8_0: not compared: chat"
    assert proof(Fake(), older).verdict is Verdict.PROVED


def test_the_divergence_is_that_of_kullback_and_leibler() -> None:
    wanted, found = SURE.astype(np.float64), TORN.astype(np.float64)
    exact = float(np.sum(np.exp(wanted) * (wanted - found)))
    assert divergence(SURE, Distribution(log_probabilities=TORN)) == pytest.approx(exact, rel=1e-6)
    order = np.array([4, 2, 0, 1, 3])
    whole = Distribution(log_probabilities=TORN[order], ids=order)
    assert divergence(SURE, whole) == pytest.approx(exact, rel=1e-5)
    some = divergence(SURE, Distribution(log_probabilities=TORN[order[:3]], ids=order[:3]))
    assert 0 < some <= exact + 1e-6
    assert margin(SURE) == pytest.approx(np.log(90 / 4), rel=1e-5)


def test_rounding_to_float32_does_not_count() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=50_000) * 3
    exact -= np.log(np.exp(exact).sum())
    assert abs(divergence(exact.astype(np.float32), Distribution(log_probabilities=exact))) < 1e-12


def test_impossible_tokens_can_be_compared() -> None:
    never = np.array([0.0, -np.inf, -np.inf], np.float32)
    assert divergence(never, Distribution(log_probabilities=never)) == 0.0
    assert divergence(row(1, 1, 1), Distribution(log_probabilities=never)) > 100
    with pytest.raises(AnswerError, match="it knows the token 7, and the tuned model has 3"):
        divergence(never, Distribution(log_probabilities=never[:1], ids=np.array([7])))


@pytest.mark.parametrize(
    ("found", "said"),
    [([0.0, 0.0], "add up to 2"), ([np.inf, -1.0], "no number"), ([], "add up to 0"), ([-np.inf], "add up to 0")],
)
def test_what_is_no_distribution_is_a_fault_and_not_a_small_divergence(found: list[float], said: str) -> None:
    answer = Distribution(log_probabilities=np.array(found), ids=np.arange(len(found)))
    with pytest.raises(AnswerError, match=said):
        divergence(SURE, answer)


def test_answers_to_some_of_the_positions_are_none() -> None:
    with pytest.raises(ValueError, match="shorter"):
        proof(Fake(rows=(SURE,)))


def test_a_figure_that_is_no_number_passes_no_gate() -> None:
    for name in ("kl_mean", "image_kl"):
        figures = {"kl_mean": 0.0, name: float("nan")}
        assert judge(Findings(figures=figures), GATE, "f16").verdict is Verdict.FAILED
    assert judge(Findings(figures={"kl_mean": 0.0}, surest_other=float("nan")), GATE, "f16").verdict is Verdict.FAILED
    assert judge(Findings(), GATE, "f16").verdict is Verdict.NOT_PROVED


def test_however_sensitive_a_model_is_not_everything_passes() -> None:
    for exact, most in ((True, 1e-2), (False, 5e-2)):
        found = [whole_gate("f16", exact=exact, sensitivity=value).kl_mean for value in (3.0, float("inf"))]
        assert found == [most, most]
    assert whole_gate("f16", exact=True, sensitivity=float("nan")).kl_mean == 1e-5


def test_a_gate_is_strict_where_both_are_whole() -> None:
    assert [whole_gate(name, exact=True) for name in ("f32", "float16", "bf16")] == [EXACT, EXACT, ROUNDED]
    assert whole_gate("float32", exact=False) is ROUNDED


def test_a_gate_grows_with_what_rounding_does_to_the_model() -> None:
    limits = [whole_gate("f16", exact=True, sensitivity=value).kl_mean for value in (1e-9, 1e-4, 1e-3)]
    assert limits == [1e-5, 1e-4, 1e-3]
    limits = [whole_gate("f16", exact=False, sensitivity=value).kl_mean for value in (1e-9, 1e-3)]
    assert limits == [5e-4, 2e-2]
    assert whole_gate("f16", exact=True, sensitivity=1e-3).margin == EXACT.margin


# The files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "reference"
    path.mkdir()
    (path / "square.png").touch()
    write_reference(path, REFERENCE)
    return path


def test_a_reference_is_read_as_it_was_written(folder: Path) -> None:
    found = read_reference(folder)
    assert (found.texts, found.chats, found.continuations) == (
        REFERENCE.texts,
        REFERENCE.chats,
        REFERENCE.continuations,
    )
    assert (found.stops, found.vocabulary, found.exact) == ((STOP,), 5, True)
    assert np.array_equal(found.passages[0].log_probabilities, REFERENCE.passages[0].log_probabilities)
    assert compare(found, folder, Fake()) == compare(REFERENCE, folder, Fake())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("reference.json", None, "has no reference.json; it is written at the end of a run with an exporter"),
        ("reference.safetensors", None, "has no reference.safetensors"),
        ("square.png", None, "is damaged (square.png is gone); export again"),
        ("reference.json", b"{", "is damaged (Expecting property name"),
        ("reference.json", b"[]", "is damaged ("),
        ("reference.json", b"\xff\xfe", "is damaged ("),
        ("reference.json", b'{"format": 1}', "is damaged ('vocabulary'); export again"),
        ("reference.json", b'{"format": 99}', "is of another version of ftcore; export again"),
        ("reference.safetensors", b"torn", "is damaged ("),
    ],
)
def test_a_damaged_reference_is_told(folder: Path, name: str, content: bytes | None, message: str) -> None:
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(RunError) as raised:
        ask("no.such.module", folder, folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("values", [{"positions": [0, 9]}, {"positions": [0]}, {"shape": 1}])
def test_a_reference_that_does_not_fit_together_is_damaged(folder: Path, values: Any) -> None:
    path = folder / "reference.json"
    document = json.loads(path.read_text("utf-8"))
    document["passages"][0].update(values)
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(RunError, match="is damaged"):
        read_reference(folder)


# The process

RUNTIME = """
import os, subprocess, sys, time
from pathlib import Path
from ftcore_plugins.common.proof.process import answer

def misbehave(artifact, fault="", **options):
    print("loading", artifact, options)
    print("\\x1b[31mnoise", b"\\xff" * 10, file=sys.stderr)
    if fault == "hang":
        subprocess.Popen(["sleep", "300"])  # which holds the pipe open
        time.sleep(300)
    if fault == "segfault":
        import ctypes
        ctypes.string_at(0)
    if fault == "killed":
        os.kill(os.getpid(), 9)
    if fault == "memory":
        raise MemoryError
    if fault == "garbage":
        Path(sys.argv[3]).write_text("{torn")
        os._exit(0)
    if fault == "chatter":
        for _ in range(20000):
            os.write(2, b"x" * 1000)
        os._exit(3)
    if fault == "environment":
        assert os.environ["FTCORE_PARENT"] == str(os.getppid())
        raise ValueError(f"{sorted(os.environ.keys() & {'RANK', 'WORLD_SIZE', 'MASTER_ADDR'})} {os.getcwd()}")
    if fault == "asked":
        return object()
    raise RuntimeError("no such file\\nand more")

if __name__ == "__main__":
    answer(misbehave)
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/faulty_runtime.py").write_text(RUNTIME)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return "faulty_runtime"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("", "it does not load: no such file"),
        ("memory", "it does not load: MemoryError"),
        ("asked", "it loads, and does not answer: 'object' object has no attribute 'tokens'"),
        ("segfault", "its runtime ended with SIGSEGV"),
        ("garbage", "what its runtime has found cannot be read"),
        ("chatter", "its runtime ended with code 3: xxxxx"),
    ],
)
def test_a_runtime_that_goes_wrong_fails_the_proof(folder: Path, runtime: str, fault: str, error: str) -> None:
    findings = ask(runtime, folder, folder, {"fault": fault})
    assert findings.error.startswith(error)
    assert findings.error.isprintable()
    assert len(findings.error) < 300
    assert judge(findings, GATE, "f16").verdict is Verdict.FAILED


def test_a_runtime_that_hangs_is_ended_with_all_that_it_started(folder: Path, runtime: str) -> None:
    start = time.monotonic()
    findings = ask(runtime, folder, folder, {"fault": "hang"}, limit=2)
    assert findings == Findings(unanswered=["its runtime did not answer within 2 seconds"])
    assert time.monotonic() - start < 10
    assert judge(findings, GATE, "f16").note == "f16: not compared: its runtime did not answer within 2 seconds"


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of a parent's end on Linux only")
def test_a_runtime_that_still_imports_its_library_does_not_outlive_a_killed_run() -> None:
    slow = (
        "import os, time; from ftcore_plugins.common.converters import end_with_parent; print(os.getpid(), flush=True)"
    )
    slow += "; time.sleep(0.5); end_with_parent(); time.sleep(9)"
    code = "import os, subprocess, sys; from ftcore_plugins.common.converters import PARENT\n"
    code += "subprocess.run([sys.executable, '-c', sys.argv[1]], env={**os.environ, PARENT: str(os.getpid())})"
    run = subprocess.Popen([sys.executable, "-c", code, slow], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    with run.stdout as lines:
        assert lines.readline().strip().isdecimal()
        run.kill()
        run.wait()
        start = time.monotonic()
        assert lines.read() == ""  # which waits until the runtime has ended
    assert time.monotonic() - start < 5


def test_a_machine_without_memory_proves_nothing(folder: Path, runtime: str) -> None:
    found = judge(ask(runtime, folder, folder, {"fault": "killed"}), GATE, "f16")
    assert found.verdict is Verdict.NOT_PROVED
    assert found.note.endswith("its runtime ended with SIGKILL, most likely since memory ran out")


def test_a_runtime_that_is_not_there_is_told(folder: Path) -> None:
    findings = ask("no_such_module", folder, folder)
    assert findings.error.startswith("its runtime ended with code 1: ")
    assert findings.error.endswith("No module named no_such_module")


def test_a_runtime_is_no_process_of_the_training(folder: Path, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    error = ask(runtime, folder, folder, {"fault": "environment"}).error
    assert error.startswith("it does not load: [] ")
    assert not Path(error.rpartition(" ")[2]).exists()
