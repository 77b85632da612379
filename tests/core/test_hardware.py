"""Hardware profiles: found by name, recommended for the machine without importing torch."""

from __future__ import annotations

import platform
import sys

import pytest

from ftcore.hardware import (
    find_hardware_profile,
    hardware_profiles,
    nvidia_memory_gib,
    recommended_profile,
    shipped,
)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A stand-in for nvidia-smi that runs a shell script."""

    def install(script):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def test_profiles_ship_by_name():
    found = hardware_profiles()
    assert {"cpu", "single_gpu", "single_gpu_low_memory", "apple_silicon"} <= set(found)
    assert all(path.parent == shipped("hardware_profiles") for path in found.values())


@pytest.mark.parametrize(
    ("script", "memory", "profile"),
    [
        ("echo 24576", [24.0], "single_gpu"),
        ("echo 8192", [8.0], "single_gpu_low_memory"),
        ("exit 9", [], "cpu"),
        ("echo 'No devices were found'", [], "cpu"),
        ("echo '[N/A]'", [], "cpu"),
        ("", [], "cpu"),
        ("printf '\\377\\376'", [], "cpu"),
    ],
)
def test_the_driver_is_asked(driver, monkeypatch, script, memory, profile):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    driver(script)
    assert nvidia_memory_gib() == memory
    assert recommended_profile() == profile
    assert recommended_profile() in hardware_profiles()


def test_several_gpus_are_as_good_as_the_smallest(driver):
    driver("echo 81920; echo 8192")
    assert nvidia_memory_gib() == [80.0, 8.0]
    assert "low_memory" in recommended_profile() or "multi" in recommended_profile()


def test_a_driver_that_hangs_is_not_waited_for(driver, monkeypatch):
    monkeypatch.setattr("ftcore.hardware.subprocess.run", _hangs)
    driver("echo 8192")
    assert nvidia_memory_gib() == []


def _hangs(command, timeout, **options):
    import subprocess

    assert timeout <= 10
    raise subprocess.TimeoutExpired(command, timeout)


@pytest.mark.parametrize(
    ("system", "machine", "profile"),
    [("Darwin", "arm64", "apple_silicon"), ("Darwin", "x86_64", "cpu"), ("Linux", "x86_64", "cpu")],
)
def test_without_a_driver_the_machine_decides(monkeypatch, system, machine, profile):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert recommended_profile() == profile


def test_auto_is_the_recommended_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert find_hardware_profile("auto", tmp_path) == hardware_profiles()["cpu"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "no hardware profile 'gpu'; there are apple_silicon, cpu, "),
        ("", "no hardware profile ''; there are "),
        ("box.toml", "no such file: box.toml (looked in "),
        ("sub", "no hardware profile 'sub'"),
    ],
)
def test_what_is_wrong_is_a_sentence(tmp_path, name, said):
    (tmp_path / "sub").mkdir()
    found = find_hardware_profile(name, tmp_path)
    assert isinstance(found, str)
    assert found.startswith(said)


def test_a_file_of_ones_own_is_relative_to_the_profile(tmp_path):
    (tmp_path / "box.toml").write_text("")
    assert find_hardware_profile("box.toml", tmp_path) == tmp_path / "box.toml"
    assert find_hardware_profile(str(tmp_path / "box.toml"), tmp_path / "elsewhere") == tmp_path / "box.toml"


def test_nothing_heavy_is_needed():
    assert "torch" not in vars(sys.modules["ftcore.hardware"])
