"""A few hundred cases of benchmarks/profile_fuzz.py, and that it finds what it looks for."""

from __future__ import annotations

import importlib.util
import random
import time

import pytest


@pytest.fixture(scope="module")
def fuzzer():
    from pathlib import Path

    path = Path(__file__).resolve().parents[2] / "benchmarks" / "profile_fuzz.py"
    spec = importlib.util.spec_from_file_location("profile_fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_but_clean_messages_comes_out(fuzzer, tmp_path):
    summary = fuzzer.fuzz(300, 7, tmp_path)
    assert summary.violations == []
    assert summary.cases == summary.valid + summary.rejected == 300
    assert summary.valid > 5, "a fuzzer whose profiles are all broken looks at the parser alone"
    assert summary.rejected > 100


def test_many_unknown_modules_are_found_soon(fuzzer, tmp_path, repository):
    text = (repository / "profiles" / "quickstart.toml").read_text()
    names = ", ".join(f'"nonsense{n}"' for n in range(200))
    path = tmp_path / "many.toml"
    path.write_text(text.replace("[plugin.python_functions]", f"[plugin.python_functions]\nmodules = [{names}]"))
    start = time.process_time()
    code, _ = fuzzer._check(["check", str(path)])
    assert code == 2
    assert time.process_time() - start < fuzzer.SECONDS


def test_every_mutation_changes_something(fuzzer):
    corpus = fuzzer.read_corpus()
    for mutation in set(fuzzer.MUTATIONS):
        draw = random.Random(1)
        results = {mutation(corpus.quickstart, draw, corpus) for _ in range(10)}
        assert results - {corpus.quickstart}, mutation.__name__


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (lambda arguments: 1 / 0, "ZeroDivisionError escaped"),
        (lambda arguments: 3, "exit code 3"),
        (lambda arguments: 2, "rejected without a message"),
        (lambda arguments: sum(time.process_time() < end for end in iter_end()) * 0, " s"),
    ],
)
def test_a_violation_is_found_and_its_profile_kept(fuzzer, tmp_path, monkeypatch, behave, said):
    monkeypatch.setattr(fuzzer, "ftcore", behave)
    monkeypatch.setattr(fuzzer, "SECONDS", 0.001)
    summary = fuzzer.fuzz(2, 1, tmp_path)
    assert len(summary.violations) == 2
    assert all(said in violation for violation in summary.violations)
    assert sorted(path.name for path in tmp_path.glob("case-*")) == ["case-0.toml", "case-1.toml"]


def iter_end():
    """Ends that lie ahead, for some milliseconds of work."""
    end = time.process_time() + 0.01
    while time.process_time() < end:
        yield end
