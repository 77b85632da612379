"""The machine: found without importing torch, by the drivers' own tools and the system's files."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from ftcore.errors import ProfileError
from ftcore.hardware import cards, nvidia_memory_gib, recommended_profile, this_machine
from ftcore.hardware.machine import free_memory, usable_cores, usable_memory

T4 = ("Tesla T4", 15360, 7.5)
RTX_4090 = ("NVIDIA GeForce RTX 4090", 24564, 8.9)


def test_the_driver_tells_name_memory_and_capability(gpus):
    gpus(RTX_4090, T4)
    big, small = cards()
    assert (big.name, big.driver, big.capability, big.bf16) == ("NVIDIA GeForce RTX 4090", "570.86.10", 8.9, True)
    assert (small.memory, small.bf16) == (15.0, False)
    assert nvidia_memory_gib() == [24564 / 1024, 15.0]
    assert str(small) == "Tesla T4 with 15.0 GiB"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ["Tesla T4"]),
        ("1,0", ["Tesla T4", "NVIDIA GeForce RTX 4090"]),
        ("GPU-1a", ["Tesla T4"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["NVIDIA GeForce RTX 4090"]),
    ],
)
def test_cuda_visible_devices_is_obeyed(gpus, monkeypatch, visible, names):
    gpus(RTX_4090, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.name for card in cards()] == names


def test_an_old_driver_does_not_know_the_capability(tool):
    tool("nvidia-smi", 'case "$1" in *compute_cap*) exit 2;; esac\necho "0, GPU-0, Tesla V100, 16384, 470.1"')
    (card,) = cards()
    assert (card.memory, card.capability, card.bf16) == (16.0, None, None)


@pytest.mark.parametrize(
    "script",
    [
        "exit 9",
        "echo 'No devices were found'",
        "",
        "printf '\\377\\376'",
        "echo '0, GPU-0, half a line'",
        "echo 'Fehler, GPU-0, x, 1, 2, 3'",
    ],
)
def test_a_driver_that_fails_is_no_card(tool, monkeypatch, script):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    tool("nvidia-smi", script)
    assert nvidia_memory_gib() == []
    assert recommended_profile() == "cpu"


def test_a_gpu_that_shares_the_memory_is_a_card_all_the_same(tool):
    tool("nvidia-smi", "echo '0, GPU-0, NVIDIA GB10, [N/A], 580.1, 12.1'")
    assert [(card.name, card.memory) for card in cards()] == [("NVIDIA GB10", None)]
    assert nvidia_memory_gib() == [0.0]
    assert recommended_profile() == "single_gpu_low_memory"


def test_a_driver_that_hangs_is_not_waited_for(tool, monkeypatch):
    def hangs(command, timeout, **options):
        assert timeout <= 10
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("ftcore.hardware.drivers.subprocess.run", hangs)
    tool("nvidia-smi", "echo 8192")
    assert cards() == []


def test_amd_cards_are_found_where_there_are_none_of_nvidia(tool):
    answer = {
        "card1": {"Card Series": "AMD INSTINCT MI300X", "VRAM Total Memory (B)": str(192 * 2**30)},
        "card0": {"Card series": "AMD INSTINCT MI250", "VRAM Total Memory (B)": str(64 * 2**30)},
        "system": {"Driver version": "6.8"},
    }
    tool("rocm-smi", f"cat <<'END'\n{json.dumps(answer)}\nEND")
    assert [(card.name, card.memory) for card in cards()] == [
        ("AMD INSTINCT MI250", 64.0),
        ("AMD INSTINCT MI300X", 192.0),
    ]
    assert recommended_profile() == "single_gpu"


@pytest.mark.parametrize("script", ["echo no JSON", "echo '[]'", "echo '{\"card0\": 3}'", "exit 1"])
def test_an_odd_answer_of_rocm_is_no_card(tool, script):
    tool("rocm-smi", script)
    assert cards() == []


@pytest.mark.parametrize(
    ("system", "machine", "profile"),
    [("Darwin", "arm64", "apple_silicon"), ("Darwin", "x86_64", "cpu"), ("Linux", "x86_64", "cpu")],
)
def test_without_a_driver_the_machine_decides(monkeypatch, system, machine, profile):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert recommended_profile() == profile


def test_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    machine = this_machine(tmp_path / "not" / "there")
    assert machine.place == tmp_path
    assert machine.cores >= 1
    assert 0.1 < machine.memory < 2**14
    assert machine.disk > 0
    assert json.loads(json.dumps(machine.as_json()))["cards"] == []


def control_group(root, files, group="2:cpu,cpuacct:/job/7\n4:memory:/job/7\n0::/job/7\n"):
    for name, text in {"proc/self/cgroup": group, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/job/7/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/job/cpu.max": "50000 100000\n", "sys/fs/cgroup/job/7/cpu.max": "max 100000\n"}, 1),
        (
            {
                "sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"sys/fs/cgroup/job/7/cpu.max": "max 100000\n"}, 64),
        ({}, 64),
    ],
)
def test_cores_are_those_of_the_control_group(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    control_group(tmp_path, files)
    assert usable_cores(tmp_path) == cores


def test_cores_are_those_of_the_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert usable_cores(tmp_path) == 2


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"sys/fs/cgroup/job/7/memory.max": "1048576\n"}, 2**20),
        ({"sys/fs/cgroup/job/memory.max": "2097152\n", "sys/fs/cgroup/job/7/memory.max": "max\n"}, 2**21),
        ({"sys/fs/cgroup/memory/job/7/memory.limit_in_bytes": "4194304\n"}, 2**22),
        ({"sys/fs/cgroup/memory/job/7/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_memory_is_that_of_the_control_group(tmp_path, files, memory):
    control_group(tmp_path, files)
    assert usable_memory(tmp_path) == (memory or usable_memory(tmp_path / "empty"))


def test_free_memory_is_what_the_system_could_give_now(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:    2048 kB\n")
    assert free_memory(tmp_path) == 2 * 2**20
    assert free_memory(tmp_path / "empty") == usable_memory(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "card", "said"),
    [
        ('[train]\nprecision = "bf16"', T4, "train.precision: bfloat16 needs compute capability 8.0, and the Tesla T4"),
        ('[model]\ndtype = "bfloat16"', T4, "model.dtype: bfloat16 needs compute capability 8.0, and the Tesla T4"),
        ('[train]\nprecision = "bf16"', RTX_4090, None),
        ('[train]\nprecision = "fp16"', T4, None),
        ('[train]\nprecision = "bf16"\n[hardware]\ndevice = "cpu"\n', T4, None),
    ],
)
def test_bf16_on_a_card_without_it_is_found_before_torch_is(desk, gpus, text, card, said):
    gpus(card)
    (desk.folder / "box.toml").write_text(text)
    check = _checking(desk)
    if said is None:
        assert check() == []
        return
    with pytest.raises(ProfileError) as caught:
        check()
    assert said in str(caught.value)
    assert f'here has 7.5; set it to "{"fp16" if "precision" in said else "float16"}"' in str(caught.value)
    assert "box.toml:2: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "environment", "warned"),
    [
        ("", {}, True),
        ("[hardware]\nprocesses = 1", {}, False),
        ('[hardware]\ndevice = "cpu"', {}, False),
        ("", {"WORLD_SIZE": "2"}, False),
    ],
)
def test_gpus_that_nobody_uses_are_told(desk, gpus, monkeypatch, text, environment, warned):
    gpus(RTX_4090, RTX_4090)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (desk.folder / "box.toml").write_text(text)
    found = [problem for problem in _checking(desk)() if problem.key == "hardware.processes"]
    assert bool(found) == warned
    assert all("one of the 2 GPUs here will train" in problem.message for problem in found)


def _checking(desk):
    """Ask for what the hardware profile box.toml asks of this machine."""
    from ftcore.hardware.findings import hardware_problems
    from ftcore.preflight import load_profile

    def check():
        text = desk.profile.read_text().replace('profile = "cpu"', 'profile = "box.toml"')
        path = desk.folder / "mine.toml"
        path.write_text(text)
        loaded = load_profile(path)
        problems = list(hardware_problems(loaded.source, loaded.profile))
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            raise ProfileError(errors)
        return problems

    return check


def test_nothing_heavy_is_needed():
    code = "import sys, ftcore.hardware, ftcore.hardware.health; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_size_that_is_none_is_not_known(tool):
    tool("nvidia-smi", "echo '0, GPU-0, A CARD, nan, 580.1, 12.1'")
    assert [card.memory for card in cards()] == [None]


def test_the_driver_is_asked_once(tool, tmp_path):
    told = tmp_path / "asked"
    tool("nvidia-smi", f"echo x >> {told}; echo '0, GPU-0, A CARD, 8192, 580.1, 12.1'")
    assert cards() == cards()
    assert told.read_text("utf-8").count("x") == 1


@pytest.mark.parametrize(
    ("device", "cards", "warned"), [("cuda", [], True), ("cuda", [RTX_4090], False), ("auto", [], False)]
)
def test_a_gpu_that_is_asked_for_and_not_here_is_told(desk, gpus, device, cards, warned):
    gpus(*cards)
    (desk.folder / "box.toml").write_text(f'[hardware]\ndevice = "{device}"')
    found = [problem for problem in _checking(desk)() if problem.key == "hardware.device"]
    assert [(problem.severity, "finds a GPU here" in problem.message) for problem in found] == [
        ("warning", True)
    ] * warned
