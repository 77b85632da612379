"""Converters of other libraries: how they end, and that none outlives the run that waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftcore_plugins.common.converters import convert_apart, last_words

LASTING = "from ftcore_plugins.common.converters import end_with_parent; end_with_parent()"
WAITS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('first\\nno such layer')", "no such layer"),
        ("raise SystemExit(3)", "it ended with code 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, most likely since memory ran out"),
        ("import os; os.kill(os.getpid(), 6)", "SIGABRT"),
    ],
)
def test_how_it_failed_is_told(code: str, words: str) -> None:
    assert last_words(convert_apart(["-c", code])) == words


def test_it_sees_no_gpu_and_no_terminal() -> None:
    code = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], sys.stdin.read(), os.getsid(0) == os.getpid())"
    assert convert_apart(["-c", code]).stdout.split() == [b"True"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes on until it is done")
def test_a_killed_run_takes_it_along(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = f"{LASTING}; {WAITS}"
    run = f"from ftcore_plugins.common.converters import convert_apart; convert_apart(['-c', {code!r}, {str(told)!r}])"
    parent = subprocess.Popen([sys.executable, "-c", run])
    while not (told.exists() and told.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while alive(int(told.read_text())):
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
