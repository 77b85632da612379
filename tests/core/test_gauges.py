"""`system/...`: what the machine does while a run trains, with drivers of every temper, and at what cost."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ftcore import engine
from ftcore.hardware import gauges
from ftcore.hardware.gauges import Gauges, gauges_of
from ftcore.hardware.nvml import visible_gpus
from ftcore.journal.metrics import read_metrics
from ftcore.testing import make_run
from ftcore.values import World

GIB = 2**30
HOST = {"system/process_memory", "system/host_memory", "system/cpu", "system/disk_read"}


class NVMLError(Exception):
    pass


class Driver(types.ModuleType):
    """NVML of a machine with some cards, as `pynvml` shows it. A figure that is in `refused` raises."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *cards: str, refused: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.cards, self.refused = list(cards), refused

    def _allowed(self, name: str) -> None:
        if name in self.refused:
            raise NVMLError(name)

    def nvmlInit(self) -> None:
        self._allowed("init")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:
        return self.cards[number]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        self._allowed("uuid")
        return handle

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if not name.startswith("MIG-a"):
            raise NVMLError("not found")
        return name

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        self._allowed("parent")
        return self.cards[0]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        self._allowed("memory")
        return types.SimpleNamespace(used=(self.cards.index(handle) + 1 if handle in self.cards else 9) * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        self._allowed("utilization")
        if handle.startswith("MIG-"):
            raise NVMLError("not supported")
        return types.SimpleNamespace(gpu=80)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        self._allowed("temperature")
        return 65

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._allowed("power")
        return 250_000


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*cards: str, refused: tuple[str, ...] = ()) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", Driver(*cards, refused=refused))

    return install


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def figures() -> list[dict[str, float]]:
    return [dict(gpu.figures()) for gpu in visible_gpus()]


def test_a_card_is_told_in_the_units_of_the_journal(driver):
    driver("GPU-one")
    assert figures() == [{"memory": 1.0, "utilization": 80.0, "temperature": 65.0, "power": 250.0}]


@pytest.mark.parametrize(
    ("wanted", "memory"),
    [("1", [2.0]), ("2,0", [3.0, 1.0]), ("GPU-b", [2.0]), ("0,7,1", [1.0]), ("", []), ("-1", [])],
)
def test_the_cards_are_those_that_cuda_sees(driver, monkeypatch, wanted, memory):
    driver("GPU-a", "GPU-b", "GPU-c")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    assert [found["memory"] for found in figures()] == memory


def test_a_run_tells_of_as_many_cards_as_it_uses(driver, tmp_path):
    driver("GPU-a", "GPU-b", "GPU-c")
    names = {name.partition("/gpu")[2].partition("/")[0] for name in Gauges(2).sample() if "/gpu" in name}
    assert names == {"0", "1"}
    run = make_run(tmp_path, hardware={"device": "cpu"})
    assert set(gauges_of(run).sample()) <= HOST, "a card that is not trained on is none of the run's"
    several = make_run(tmp_path)
    object.__setattr__(several, "world", World(size=4, local_size=2))
    assert "system/gpu1/memory" in gauges_of(several).sample()


def test_a_part_of_a_card_has_the_heat_of_the_whole(driver, monkeypatch):
    driver("GPU-a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a1,MIG-none")
    assert figures() == [{"memory": 9.0, "temperature": 65.0, "power": 250.0}]
    driver("GPU-a", refused=("parent",))
    assert figures()[0]["memory"] == 9.0


@pytest.mark.parametrize("refused", ["memory", "utilization", "temperature", "power"])
def test_what_a_driver_refuses_is_left_out(driver, refused):
    driver("GPU-a", refused=(refused,))
    assert set(figures()[0]) == {"memory", "utilization", "temperature", "power"} - {refused}


def test_a_card_without_a_name_is_still_a_card(driver, monkeypatch):
    driver("GPU-a", "GPU-b", refused=("uuid",))
    assert len(figures()) == 2


def test_without_a_driver_or_its_library_there_is_no_card(driver, monkeypatch):
    driver("GPU-a", refused=("init",))
    assert visible_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert visible_gpus() == []
    assert set(Gauges().sample()) <= HOST


def test_the_first_sample_comes_at_once_and_the_next_one_when_it_is_due(driver):
    driver()
    clock = Clock()
    made = Gauges(seconds=10.0, clock=clock)
    assert made.sample()
    for later, due in ((9.9, False), (10.0, True), (10.1, False), (20.1, True)):
        clock.now = 100.0 + later
        assert bool(made.sample()) is due, later


def test_a_slow_driver_is_asked_less_often(driver, monkeypatch):
    driver("GPU-a")
    clock = Clock()
    made = Gauges(seconds=10.0, clock=clock)

    def slow(self: object) -> Any:
        clock.now += 1.0
        return iter(())

    monkeypatch.setattr("ftcore.hardware.nvml.Gpu.figures", slow)
    made.sample()
    clock.now = 100.0 + 1.0 / gauges.MOST_SHARE - 1
    assert made.sample() == {}
    clock.now += 2
    assert made.sample()


def test_the_host_is_told_in_gib_and_percent(driver):
    import psutil

    driver()
    found = Gauges().sample()
    assert set(found) == HOST
    assert 0.005 < found["system/process_memory"] < 16
    assert found["system/process_memory"] < found["system/host_memory"] <= psutil.virtual_memory().total / GIB
    assert 0 <= found["system/cpu"] <= 100
    assert found["system/disk_read"] >= 0


@pytest.mark.parametrize("error", [PermissionError("hidden"), NotImplementedError(), AttributeError("no such counter")])
def test_what_a_system_hides_is_left_out(driver, monkeypatch, error):
    def fail(*_: Any) -> Any:
        raise error

    driver()
    monkeypatch.setattr("psutil.Process.io_counters", fail)
    monkeypatch.setattr("psutil.virtual_memory", fail)
    assert set(Gauges().sample()) == {"system/process_memory", "system/cpu"}


# In a run

TRAINER = """
    from light_plugins import Arithmetic

    class Counting(Arithmetic):
        def _step(self, state):
            if state["step"] + 1 == {sick}:
                raise RunError("the loss is nan", notice=Notice(sign="not-a-number", text="the loss is nan",
                    advice="lower the rate", page="docs/health.md#not-a-number"))
            return super()._step(state)

        def _report(self, state):
            made = super()._report(state)
            return attrs.evolve(made, metrics={{**made.metrics, "tokens": 10.0}})

    class Plugin:
        @hookimpl
        def make_trainer(self, run, loaded, data):
            return Counting(run, loaded, data, 0.9)
"""


def with_counting(desk, sick: int = 0) -> None:
    """The light trainer that counts tokens, and fails at a step."""
    desk.installation.plugin("counting", TRAINER.format(sick=sick))
    desk.replace("[plugin.light_trainer]", "[plugin.counting]")


def steps(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_a_run_counts_its_tokens_and_samples_its_machine(desk):
    with_counting(desk)
    lines = steps(engine.run(desk.load()).folder)
    assert [line["tokens_seen"] for line in lines] == [10.0 * number for number in range(1, 11)]
    assert "system/process_memory" in lines[0]
    assert not any("system/process_memory" in line for line in lines[1:]), "ten seconds have not passed"


def test_tokens_go_on_where_the_run_does(desk, monkeypatch):
    with_counting(desk)
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    desk.replace("save_steps = 3", "save_steps = 5\nlog_steps = 4")
    with pytest.raises(engine.RunError, match="light fault"):
        engine.run(desk.load())
    monkeypatch.delenv("LIGHT_FAULT")
    [folder] = desk.runs()
    assert [line["step"] for line in steps(folder)] == [4, 5], "where a run may go on from, its sums stand"
    engine.resume(folder)
    assert [(line["step"], line["tokens_seen"]) for line in steps(folder)] == [(4, 40), (5, 50), (8, 80), (10, 100)]


def test_a_sample_waits_for_the_next_line(desk):
    with_counting(desk)
    desk.replace("save_steps = 3", "save_steps = 0\nlog_steps = 4")
    lines = steps(engine.run(desk.load()).folder)
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert "system/process_memory" in lines[0]


def test_an_error_with_a_notice_leaves_it_in_the_journal(desk):
    with_counting(desk, sick=4)
    with pytest.raises(engine.RunError, match="the loss is nan"):
        engine.run(desk.load())
    events = [json.loads(line) for line in (desk.runs()[0] / "events.jsonl").read_text().splitlines()]
    [notice] = [event for event in events if event["event"] == "notice"]
    assert (notice["sign"], notice["advice"], notice["step"]) == ("not-a-number", "lower the rate", 3)
    assert notice["page"] == "docs/health.md#not-a-number"
    assert events.index(notice) < len(events) - 1, "before the end"
