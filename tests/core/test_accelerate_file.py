"""Files of `accelerate config`: those that the guides show, other kinds, and broken ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ftcore.accelerate_file import read_accelerate_file
from ftcore.preflight import load_profile

TAIL = """\
downcast_bf16: 'no'
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: {processes}
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""
SINGLE = "compute_environment: LOCAL_MACHINE\ndebug: false\ndistributed_type: 'NO'\n" + TAIL.format(processes=1)
MULTI = "compute_environment: LOCAL_MACHINE\ndebug: false\ndistributed_type: MULTI_GPU\ngpu_ids: all\n" + TAIL.format(
    processes=2
).replace("num_processes: 2", "num_processes: 2  # Number of GPUs")
ZERO3 = """\
compute_environment: LOCAL_MACHINE
debug: false
deepspeed_config:
  bf16:
    enabled: true
  gradient_accumulation_steps: auto
  gradient_clipping: auto
  offload_optimizer_device: cpu
  offload_param_device: cpu
  zero3_init_flag: true
  zero3_save_16bit_model: true
  zero_stage: 3
distributed_type: DEEPSPEED
""" + TAIL.format(processes=2)
FSDP = """\
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_offload_params: true
  fsdp_reshard_after_forward: false
  fsdp_activation_checkpointing: true
num_processes: 4
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(text):
        path = tmp_path / "accelerate.yaml"
        path.write_text(text, "utf-8")
        return read_accelerate_file(path)

    return write_and_read


@pytest.fixture
def faults(read):
    def told(text):
        return [str(problem).rpartition("accelerate.yaml:")[2] for problem in read(text).problems]

    return told


BF16 = {"precision": "bf16"}


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        (SINGLE, {"hardware": {"processes": 1, "machines": 1}, "train": BF16}),
        (MULTI, {"hardware": {"processes": 2, "machines": 1}, "train": BF16}),
        (
            ZERO3,
            {
                "hardware": {"processes": 2, "machines": 1},
                "train": BF16,
                "plugin": {"deepspeed_zero3": {"offload_optimizer": "cpu", "offload_parameters": "cpu"}},
            },
        ),
        (
            FSDP,
            {
                "hardware": {"processes": 4, "machines": 1},
                "plugin": {"fsdp": {"offload": True, "reshard": False}},
                "train": {"activation_checkpointing": True},
            },
        ),
        (
            "distributed_type: MULTI_CPU\nnum_processes: 2\nmixed_precision: no\n",
            {"hardware": {"processes": 2, "machines": 1, "device": "cpu"}, "train": {"precision": "fp32"}},
        ),
        ("distributed_type: MPS\n", {"hardware": {"processes": 1, "machines": 1, "device": "mps"}}),
        (
            "distributed_type: 'NO'\nuse_cpu: true\nnum_processes: 3\n",
            {"hardware": {"processes": 1, "machines": 1, "device": "cpu"}},
        ),
        (
            "distributed_type: MULTI_GPU\nnum_processes: 8\nnum_machines: 2\n"
            "main_process_ip: 10.0.0.1\nmain_process_port: 29500\n",
            {"hardware": {"processes": 4, "machines": 2, "rendezvous": "10.0.0.1:29500"}},
        ),
        (
            "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config:\n  zero_stage: 2\n"
            "  offload_param_device: cpu\n  gradient_clipping: 0.5\n",
            {
                "hardware": {"processes": 2, "machines": 1},
                "plugin": {"deepspeed_zero2": {}},
                "train": {"max_grad_norm": 0.5},
            },
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\n"
            "  offload_optimizer_device: nvme\n  offload_optimizer_nvme_path: /fast\n",
            {
                "hardware": {"processes": 1, "machines": 1},
                "plugin": {"deepspeed_zero3": {"offload_optimizer": "nvme", "nvme_path": "/fast"}},
            },
        ),
    ],
)
def test_what_a_file_says_in_our_words(read, text, tables):
    found = read(text)
    assert found.problems == ()
    assert found.tables == tables


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "debug: false\ndistributed_type: MEGATRON_LM\n",
            "2: distributed_type: MEGATRON_LM is not supported; there are NO, MULTI_GPU, MULTI_CPU, MPS, ",
        ),
        (
            "distributed_type: XLA\n",
            "1: distributed_type: XLA is not supported; there are NO, MULTI_GPU, MULTI_CPU, MPS, DEEPSPEED, FSDP",
        ),
        (
            "compute_environment: AMAZON_SAGEMAKER\ndistributed_type: 'NO'\n",
            "1: compute_environment: only LOCAL_MACHINE is supported; start ftcore on the machines",
        ),
        (
            "distributed_type: MULTI_GPU\nnum_process: 2\n",
            "2: num_process: unknown key; did you mean 'num_processes'?",
        ),
        (
            "distributed_type: MULTI_GPU\nnum_processes: two\n",
            "2: num_processes: expected a whole number from 1 to 65536, got 'two'",
        ),
        (
            "distributed_type: MULTI_GPU\nnum_processes: 3\nnum_machines: 2\n",
            "2: num_processes: 3 processes cannot be shared out evenly to 2 machines",
        ),
        (
            "distributed_type: MULTI_GPU\nmixed_precision: fp8\n",
            "2: mixed_precision: fp8 is not supported; there are no, fp16, bf16",
        ),
        (
            "distributed_type: MULTI_GPU\nnum_processes: 2\ngpu_ids: 2,3\n",
            "3: gpu_ids: say which GPUs outside of it: CUDA_VISIBLE_DEVICES=2,3, and gpu_ids: all",
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 1\n",
            "3: deepspeed_config.zero_stage: stage 1 is not supported; take 2 or 3",
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ds.json\n",
            "3: deepspeed_config.deepspeed_config_file: write its zero_stage and offload here instead",
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: 3\n",
            "2: deepspeed_config: expected settings below it, got 3",
        ),
        ("a: [\n", "2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("[1, 2]\n", "1: no distributed_type in it; name a file that accelerate config wrote"),
        ("distributed_type: &a\n  b: *a\n", "2: write out what the alias stands for"),
        (
            "distributed_type: NO\na: &a [x, x]\nb: &b [*a, *a]\nnum_processes: *b\n",
            "3: write out what the alias stands for",
        ),
        (
            "distributed_type: MULTI_CPU\nnum_processes: 99999999999999\n",
            "2: num_processes: expected a whole number from 1 to 65536, got 99999999999999",
        ),
        ("distributed_type: NO\nuse_cpu: maybe\n", "2: use_cpu: expected true or false, got 'maybe'"),
        (
            "distributed_type: FSDP\nfsdp_config:\n  fsdp_ofload_params: true\n",
            "3: fsdp_config.fsdp_ofload_params: unknown key; did you mean 'fsdp_offload_params'?",
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stages: 3}\n",
            "2: deepspeed_config.zero_stages: unknown key; did you mean 'zero_stage'?",
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3.0}\n",
            "2: deepspeed_config.zero_stage: stage 3.0 is not supported; take 2 or 3",
        ),
    ],
)
def test_what_is_wrong_names_file_and_line(faults, text, told):
    found = faults(text)
    assert len(found) == 1
    assert found[0].startswith(told)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "accelerate.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    (problem,) = read_accelerate_file(path).problems
    assert "cannot be read: it is not UTF-8" in str(problem)
    path.write_text("#" * 100_000)
    (problem,) = read_accelerate_file(path).problems
    assert "over 64 KiB" in str(problem)
    (problem,) = read_accelerate_file(Path("/dev/zero")).problems
    assert "this is no file" in str(problem)


def test_a_bare_no_is_no_truth_value(read):
    assert read("distributed_type: NO\n").tables == read("distributed_type: 'NO'\n").tables


def test_without_the_library_the_command_that_installs_it_is_named(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (problem,) = read(SINGLE).problems
    assert problem.message == "PyYAML is not installed, which reads this file; run: pip install pyyaml"


# -- as a layer of a profile ----------------------------------------------------------------------


@pytest.fixture
def layered(desk):
    """The light profile on the guides' file for two GPUs."""
    desk.write(MULTI, "multi.yaml")
    desk.replace('profile = "cpu"\n', 'profile = "cpu"\naccelerate_config = "multi.yaml"\n')
    return desk


def test_it_lies_under_the_profile_and_over_the_hardware_profile(layered):
    assert layered.load().profile.hardware.processes == 2
    assert layered.load().profile.train.precision == "bf16"
    layered.replace("max_steps = 10", 'max_steps = 10\nprecision = "fp32"')
    assert layered.load().profile.train.precision == "fp32"
    assert layered.load(sets=["hardware.processes=1"]).profile.hardware.processes == 1


def test_it_may_be_named_on_the_command_line(desk):
    desk.write(MULTI, "multi.yaml")
    assert desk.load(sets=["hardware.accelerate_config=multi.yaml"]).profile.hardware.processes == 2


def test_a_missing_file_is_named_with_the_place_where_it_was_looked_for(layered, complaints):
    (layered.folder / "multi.yaml").unlink()
    (told,) = complaints(layered.profile)
    assert told.startswith("light.toml:7: hardware.accelerate_config: no such file: multi.yaml (looked in ")


def test_its_mistakes_are_told_with_those_of_the_profile(layered, complaints):
    layered.write(MULTI.replace("MULTI_GPU", "TPU"), "multi.yaml")
    layered.replace("max_steps = 10", "max_step = 10")
    told = complaints(layered.profile)
    assert [line.partition(": ")[0] for line in told] == ["light.toml:14", "multi.yaml:3"]


def test_a_problem_with_one_of_its_settings_names_its_line(layered, complaints):
    layered.write(MULTI.replace("distributed_type: MULTI_GPU", "distributed_type: FSDP"), "multi.yaml")
    (told,) = complaints(layered.profile)
    assert told.startswith("multi.yaml:3: plugin.fsdp: no such plugin")


def test_a_plugin_that_it_switches_on_can_be_switched_off(layered):
    layered.write(MULTI.replace("distributed_type: MULTI_GPU", "distributed_type: FSDP"), "multi.yaml")
    assert load_profile(layered.profile, switch_off=["fsdp"]).profile.hardware.processes == 2


def test_a_run_does_not_read_it_again(layered):
    from ftcore import engine

    layered.replace('profile = "cpu"\n', 'profile = "cpu"\nprocesses = 1\n')
    folder = engine.run(layered.load()).folder
    (layered.folder / "multi.yaml").unlink()
    assert load_profile(folder / "profile.toml", resolved=True).profile.train.precision == "bf16"
