"""Hardware profiles: those that ship, those of a person's own, lists of them, and the one for a machine."""

from __future__ import annotations

import itertools
import platform
import tomllib
from pathlib import Path

import pytest

from ftcore.hardware import find_hardware_profile, hardware_profiles, own_folders, recommended, shipped, this_machine
from ftcore.hardware.profiles import described

SHIPPED = sorted(shipped("hardware_profiles").glob("*.toml"))

NAMES = [
    *("rtx_3070", "rtx_4070_ti", "rtx_4090", "rtx_5090", "a40", "a100_40gb", "a100_80gb", "h100", "h200", "t4", "l4"),
    *("cpu", "apple_silicon", "single_gpu", "single_gpu_low_memory", "multi_gpu"),
    *("deepspeed_zero2", "deepspeed_zero3", "fsdp"),
]

# What follows the machine. A key that changes what is learned, such as the batch, has no place here.
ALLOWED = {
    "hardware": {"card", "memory", "tflops", "device", "workers", "threads", "processes"},
    "model": {"dtype", "attention"},
    "train": {"precision", "micro_batch_size", "activation_checkpointing"},
    "plugin": {"deepspeed_zero2", "deepspeed_zero3", "fsdp"},
}

# Names as nvidia-smi prints them, MiB, compute capability.
MACHINES = [
    ("NVIDIA GeForce RTX 3070", 8192, 8.6, "rtx_3070"),
    ("NVIDIA GeForce RTX 3070 Ti", 8192, 8.6, "rtx_3070"),
    ("NVIDIA GeForce RTX 4070 Ti", 12282, 8.9, "rtx_4070_ti"),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, 8.9, "single_gpu_low_memory"),
    ("NVIDIA GeForce RTX 4070", 12282, 8.9, "single_gpu_low_memory"),
    ("NVIDIA GeForce RTX 4090", 24564, 8.9, "rtx_4090"),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, 8.9, "single_gpu_low_memory"),
    ("NVIDIA GeForce RTX 5090", 32607, 12.0, "rtx_5090"),
    ("NVIDIA A40", 46068, 8.6, "a40"),
    ("NVIDIA A100-SXM4-40GB", 40960, 8.0, "a100_40gb"),
    ("NVIDIA A100-PCIE-40GB", 40536, 8.0, "a100_40gb"),
    ("NVIDIA A100-SXM4-80GB", 81920, 8.0, "a100_80gb"),
    ("NVIDIA A100 80GB PCIe", 81251, 8.0, "a100_80gb"),
    ("NVIDIA H100 80GB HBM3", 81559, 9.0, "h100"),
    ("NVIDIA H100 NVL", 95830, 9.0, "single_gpu"),
    ("NVIDIA H200", 143771, 9.0, "h200"),
    ("Tesla T4", 15360, 7.5, "t4"),
    ("NVIDIA L4", 23034, 8.9, "l4"),
    ("NVIDIA L40S", 46068, 8.9, "single_gpu"),
    ("NVIDIA A10", 23028, 8.6, "single_gpu"),
]


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A person's own folder, empty."""
    monkeypatch.delenv("FTCORE_HARDWARE_PROFILES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "ftcore" / "hardware_profiles"
    folder.mkdir(parents=True)
    return folder


def test_every_machine_has_its_profile():
    assert set(NAMES) == {path.stem for path in SHIPPED} == set(hardware_profiles())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_profile_says_what_it_is_for_and_changes_no_result(path):
    tables = tomllib.loads(path.read_text("utf-8"))
    assert described(path.stem, path).summary.endswith((".", "]."))
    for name, table in tables.items():
        assert set(table) <= ALLOWED[name], f"[{name}]"
    assert all(options == {} for options in tables.get("plugin", {}).values())
    hardware = tables["hardware"]
    assert hardware["device"] in ("cpu", "cuda", "mps")
    assert {"card", "memory", "tflops"} <= set(hardware) or "card" not in hardware


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_profile_lies_under_a_ready_one(path, tmp_path, repository, problems_of):
    text = (repository / "profiles" / "quickstart.toml").read_text("utf-8")
    from ftcore.preflight import load_profile

    profile = tmp_path / "mine.toml"
    profile.write_text(text)
    loaded = load_profile(profile, sets=[f"hardware.profile={path.stem}"]).profile
    assert loaded.train.batch_size == load_profile(profile, sets=["hardware.profile=cpu"]).profile.train.batch_size


@pytest.mark.parametrize(("name", "memory", "capability", "profile"), MACHINES, ids=str)
def test_a_card_is_known_by_its_name_and_its_memory(gpus, name, memory, capability, profile):
    gpus((name, memory, capability))
    found = recommended(this_machine())
    assert found.profiles == (profile,)
    assert name in found.reason
    assert find_hardware_profile("auto", Path.cwd()) == hardware_profiles()[profile]


def test_several_gpus_are_as_good_as_the_smallest_and_auto_starts_no_processes(gpus):
    gpus(("NVIDIA A100-SXM4-80GB", 81920, 8.0), ("NVIDIA GeForce RTX 3070", 8192, 8.6))
    found = recommended(this_machine())
    assert found.profiles == ("rtx_3070", "multi_gpu")
    assert "multi_gpu starts a process for each" in found.reason
    path = find_hardware_profile("auto", Path.cwd())
    assert isinstance(path, Path)
    assert path.stem == "rtx_3070"
    assert "processes" not in path.read_text()


def test_a_profile_of_ones_own_is_found_and_wins_by_its_name(own, monkeypatch, tmp_path):
    (own / "lab.toml").write_text("# The box under the desk.\n")
    (own / "cpu.toml").write_text("")
    assert hardware_profiles()["lab"] == own / "lab.toml"
    assert find_hardware_profile("cpu", tmp_path) == own / "cpu.toml"
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "lab.toml").write_text("")
    monkeypatch.setenv("FTCORE_HARDWARE_PROFILES", f"{first}:{second}")
    assert own_folders() == [first, second, own]
    assert hardware_profiles()["lab"] == first / "lab.toml"


def test_without_a_home_there_are_the_shipped_ones(monkeypatch):
    for name in ("XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(name)
    assert set(NAMES) <= set(hardware_profiles())


def test_auto_takes_a_profile_of_ones_own_for_the_card(own, gpus):
    gpus(("NVIDIA GeForce RTX 4090", 24564, 8.9))
    (own / "desk.toml").write_text('[hardware]\ncard = "RTX 4090"\n')
    assert recommended(this_machine()).profiles == ("desk",)
    (own / "desk.toml").write_text('[hardware]\ncard = "RTX"\n')
    assert recommended(this_machine()).profiles == ("rtx_4090",)
    (own / "desk.toml").write_text('[hardware]\ncard = "RTX 4090"\nmemory = 48\n')
    assert recommended(this_machine()).profiles == ("rtx_4090",)


def test_a_broken_profile_of_ones_own_is_told_where_auto_looks_at_it(own, gpus, desk, complaints):
    gpus(("NVIDIA A40", 46068, 8.6))
    (own / "desk.toml").write_text("[hardware\n")
    desk.replace('profile = "cpu"', 'profile = "auto"')
    (text,) = complaints(desk.profile)
    assert text.startswith(f"light.toml:6: hardware.profile: hardware profile {own / 'desk.toml'} cannot be read: ")
    assert text.endswith("; mend it or remove it")


def test_in_a_list_a_later_profile_wins(desk):
    desk.write("[hardware]\nworkers = 1\nthreads = 1\n[train]\nlog_steps = 5\n", "under.toml")
    desk.write("[hardware]\nworkers = 2\n", "over.toml")
    desk.replace('profile = "cpu"', 'profile = ["cpu", "under.toml", "over.toml"]\nthreads = 4')
    loaded = desk.load()
    hardware = loaded.profile.hardware
    assert (hardware.workers, hardware.threads, loaded.profile.train.log_steps) == (2, 4, 5)
    assert hardware.device == "cpu"
    assert loaded.settings()["hardware"]["profile"] == [
        "cpu",
        str(desk.folder / "under.toml"),
        str(desk.folder / "over.toml"),
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            '["cpu", "cpuu"]',
            "no hardware profile 'cpuu' (ftcore hardware lists them); did you mean 'cpu'?",
        ),
        ('["cpu", "box.toml"]', "hardware.profile: no such file: box.toml (looked in "),
        ('["cpu", 3]', "expected a string, got 3 (a whole number)"),
        ("3", "hardware.profile: expected a string, got 3 (a whole number)"),
    ],
)
def test_what_is_wrong_in_a_list_is_a_sentence(desk, complaints, value, said):
    desk.replace('profile = "cpu"', f"profile = {value}")
    (text,) = complaints(desk.profile)
    assert said in text
    assert text.startswith("light.toml:6: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rtx_4091", "no hardware profile 'rtx_4091' (ftcore hardware lists them); did you mean 'rtx_4090'?"),
        ("tpu_v5e", "no hardware profile 'tpu_v5e' (ftcore hardware lists them); there are a100_40gb, "),
        ("", "no hardware profile '' (ftcore hardware lists them); there are "),
        ("box.toml", "no such file: box.toml (looked in "),
        ("sub", "no hardware profile 'sub'"),
    ],
)
def test_what_is_wrong_is_a_sentence(tmp_path, name, said):
    (tmp_path / "sub").mkdir()
    found = find_hardware_profile(name, tmp_path)
    assert isinstance(found, str)
    assert found.startswith(said)


def test_one_of_the_command_line_is_blamed_on_it_and_hangs_on_the_working_directory(desk, complaints, monkeypatch):
    (text,) = complaints(desk.profile, sets=["hardware.profile=rtx_4091"])
    assert text.startswith("hardware.profile: no hardware profile 'rtx_4091' (")
    here = desk.folder / "elsewhere"
    here.mkdir()
    (here / "box.toml").write_text("[hardware]\nworkers = 2\n")
    monkeypatch.chdir(here)
    loaded = desk.load(sets=["hardware.profile=box.toml"])
    assert loaded.profile.hardware.workers == 2
    assert loaded.settings()["hardware"]["profile"] == str(here / "box.toml")


def test_a_file_of_ones_own_is_relative_to_the_profile(tmp_path):
    (tmp_path / "box.toml").write_text("")
    assert find_hardware_profile("box.toml", tmp_path) == tmp_path / "box.toml"
    assert find_hardware_profile(str(tmp_path / "box.toml"), tmp_path / "elsewhere") == tmp_path / "box.toml"


def test_auto_is_the_recommended_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert find_hardware_profile("auto", tmp_path) == hardware_profiles()["cpu"]


@pytest.mark.parametrize(("batch", "micro"), list(itertools.product((1, 6, 7, 12), (4, 8))))
def test_a_micro_batch_of_the_hardware_is_taken_down_to_a_divisor(desk, batch, micro):
    desk.write(f"[train]\nmicro_batch_size = {micro}\n", "box.toml")
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    desk.replace("max_steps = 10", f"max_steps = 10\nbatch_size = {batch}")
    train = desk.load().profile.train
    assert train.batch_size == batch
    assert train.micro_batch_size == max(size for size in range(1, micro + 1) if batch % size == 0)


@pytest.mark.parametrize(
    ("batch", "processes", "environment", "micro"),
    [(24, 4, {}, 3), (8, 4, {}, 2), (2, 4, {}, 1), (24, 1, {"WORLD_SIZE": "2"}, 4), (24, 0, {}, 3)],
)
def test_it_must_divide_the_share_of_each_process(desk, gpus, monkeypatch, batch, processes, environment, micro):
    gpus(*[("NVIDIA L4", 23034, 8.9)] * 4)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    desk.write(f'[hardware]\ndevice = "cuda"\nprocesses = {processes}\n[train]\nmicro_batch_size = 4\n', "box.toml")
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    desk.replace("max_steps = 10", f"max_steps = 10\nbatch_size = {batch}")
    assert desk.load().profile.train.micro_batch_size == micro


def test_a_micro_batch_of_the_profile_must_divide_the_batch(desk, complaints):
    desk.replace("max_steps = 10", "max_steps = 10\nbatch_size = 6\nmicro_batch_size = 4")
    (text,) = complaints(desk.profile)
    assert text.endswith("train.micro_batch_size: 4 does not divide train.batch_size = 6; choose a divisor")
