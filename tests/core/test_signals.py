"""SIGINT and SIGTERM: the first asks, the second ends the process at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from ftcore.errors import ExitCode, Interrupted
from ftcore.signals import StopSignals

WAITS = """
import sys, time
from ftcore.errors import Interrupted
from ftcore.signals import StopSignals
with StopSignals() as signals:
    signals.deferred = sys.argv[1] == "deferred"
    try:
        print("ready", flush=True)
        for _ in range(1000):
            time.sleep(0.01)
            if signals.requested and sys.argv[2] == "polite":
                print("asked:", signals.requested.reason, flush=True)
                sys.exit(signals.requested.exit_code)
            if signals.requested and sys.argv[2] == "deaf":
                print("deaf", flush=True)
                time.sleep(60)
    except Interrupted as stop:
        print("raised:", stop.reason, flush=True)
        sys.exit(stop.exit_code)
"""

CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


@pytest.fixture
def waiting():
    """A process that waits for signals; `manner` says what it does with a request."""
    started = []

    def start(when, manner):
        process = subprocess.Popen([sys.executable, "-c", WAITS, when, manner], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", CODES)
def test_outside_training_the_first_signal_raises(waiting, number):
    process = waiting("now", "polite")
    process.send_signal(number)
    assert process.stdout.read() == f"raised: {number.name} received\n"
    assert process.wait(10) == CODES[number]


@pytest.mark.parametrize("number", CODES)
def test_while_training_the_first_signal_only_asks(waiting, number):
    process = waiting("deferred", "polite")
    process.send_signal(number)
    assert process.stdout.read() == f"asked: {number.name} received\n"
    assert process.wait(10) == CODES[number]


@pytest.mark.parametrize("first", CODES)
@pytest.mark.parametrize("second", CODES)
def test_the_second_signal_ends_the_process_at_once(waiting, first, second):
    process = waiting("deferred", "deaf")
    process.send_signal(first)
    assert process.stdout.readline() == "deaf\n"
    start = time.monotonic()
    process.send_signal(second)
    assert process.wait(10) == CODES[second]
    assert time.monotonic() - start < 5


def test_the_handlers_of_before_are_back_afterwards():
    before = [signal.getsignal(number) for number in CODES]
    with StopSignals() as signals:
        assert [signal.getsignal(number) for number in CODES] == [signals._handle] * 2
    assert [signal.getsignal(number) for number in CODES] == before


def test_what_is_raised_carries_its_exit_code_and_is_no_exception():
    with StopSignals() as signals, pytest.raises(Interrupted) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == ExitCode.RESUMABLE
    assert signals.requested is caught.value
    assert not isinstance(caught.value, Exception), "no plugin may swallow it by accident"


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
