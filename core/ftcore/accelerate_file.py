"""A file that `accelerate config` wrote, as tables of a profile: what was set up once need not be written again.

https://huggingface.co/docs/accelerate/package_reference/cli
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import Problem
from ftcore.structure import KeyPath, nearest
from ftcore.yaml_file import WrongFileError, read_yaml

KINDS = ("NO", "MULTI_GPU", "MULTI_CPU", "MPS", "DEEPSPEED", "FSDP")
STAGES = (2, 3)
PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
NOWHERE = (None, "", "none", "auto")

# What torch's launcher finds out by itself, what only accelerate's own scripts read, and what ftcore derives.
WITHOUT_EFFECT = frozenset(
    """
    debug downcast_bf16 dynamo_backend dynamo_config enable_cpu_affinity gradient_accumulation_steps ipex_config
    machine_rank main_training_function megatron_lm_config mpirun_config parallelism_config rdzv_backend same_network
    tpu_env tpu_name tpu_use_cluster tpu_use_sudo tpu_zone commands command_file fp8_config
    """.split()  # noqa: SIM905
)
READ = frozenset(
    """
    compute_environment deepspeed_config distributed_type fsdp_config gpu_ids main_process_ip main_process_port
    mixed_precision num_machines num_processes use_cpu
    """.split()  # noqa: SIM905
)

# The keys of its tables, read or without effect.
DEEPSPEED = frozenset(
    """
    bf16 deepspeed_config_file deepspeed_exclusion_filter deepspeed_hostfile deepspeed_inclusion_filter fp16
    deepspeed_moe_layer_cls_names deepspeed_multinode_launcher gradient_accumulation_steps gradient_clipping
    offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path zero3_init_flag
    zero3_save_16bit_model zero_stage
    """.split()  # noqa: SIM905
)
FSDP = frozenset(
    """
    fsdp_activation_checkpointing fsdp_auto_wrap_policy fsdp_backward_prefetch fsdp_backward_prefetch_policy
    fsdp_cpu_ram_efficient_loading fsdp_forward_prefetch fsdp_ignored_modules fsdp_min_num_params fsdp_offload_params
    fsdp_reshard_after_forward fsdp_sharding_strategy fsdp_state_dict_type fsdp_sync_module_states
    fsdp_transformer_layer_cls_to_wrap fsdp_use_orig_params fsdp_version
    """.split()  # noqa: SIM905
)
MOST = 65_536
"""Processes or machines that a file may ask for."""


@attrs.frozen(kw_only=True)
class AccelerateFile:
    """Its settings in our words, the line that each comes from, and what is wrong with it."""

    tables: dict[str, Any]
    lines: Mapping[KeyPath, int]
    problems: tuple[Problem, ...] = ()


def read_accelerate_file(path: Path) -> AccelerateFile:
    """Never raises: what is wrong is in `problems`."""
    try:
        values, lines = read_yaml(path)
    except WrongFileError as wrong:
        return AccelerateFile(tables={}, lines={}, problems=(wrong.problem,))
    if not isinstance(values, dict) or "distributed_type" not in values:
        text = "no distributed_type in it; name a file that accelerate config wrote"
        return AccelerateFile(tables={}, lines={}, problems=(Problem(message=text, file=path, line=1),))
    reader = _Reader(values, lines, path)
    reader.read()
    return AccelerateFile(tables=reader.tables, lines=reader.lines, problems=tuple(reader.problems))


class _Reader:
    """Goes through one file, and collects."""

    def __init__(self, values: dict[str, Any], lines: Mapping[str, int], path: Path) -> None:
        self._values, self._lines, self._path = values, lines, path
        self.tables: dict[str, Any] = {}
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []

    def read(self) -> None:
        """Everything in the file, mistakes included."""
        for key in self._values:
            if key not in READ | WITHOUT_EFFECT:
                self._complain(str(key), f"unknown key{nearest(str(key), sorted(READ | WITHOUT_EFFECT))}")
        if self._values.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
            self._complain("compute_environment", "only LOCAL_MACHINE is supported; start ftcore on the machines")
        kind = self._values["distributed_type"]
        kind = "NO" if kind is False else str(kind)  # YAML takes a bare NO for false
        if kind not in KINDS:
            text = f"{kind} is not supported; there are {', '.join(KINDS)}"
            self._complain("distributed_type", text)
            return
        self._read_processes(kind)
        self._read_place(kind)
        self._read_precision()
        strategies: Mapping[str, Callable[[], None]] = {"DEEPSPEED": self._read_deepspeed, "FSDP": self._read_fsdp}
        strategies.get(kind, lambda: None)()

    def _read_processes(self, kind: str) -> None:
        machines = self._whole("num_machines", 1)
        total = self._whole("num_processes", machines) if kind not in ("NO", "MPS") else 1
        if total % machines:
            self._complain("num_processes", f"{total} processes cannot be shared out evenly to {machines} machines")
            return
        self._set("hardware", "processes", total // machines, "num_processes")
        self._set("hardware", "machines", machines if total > 1 else 1, "num_machines")
        address, port = self._values.get("main_process_ip"), self._values.get("main_process_port")
        if machines > 1 and address and port:
            self._set("hardware", "rendezvous", f"{address}:{port}", "main_process_ip")

    def _read_place(self, kind: str) -> None:
        if kind == "MULTI_CPU" or self._values.get("use_cpu") is True:
            self._set("hardware", "device", "cpu", "use_cpu" if "use_cpu" in self._values else "distributed_type")
        if kind == "MPS":
            self._set("hardware", "device", "mps", "distributed_type")
        if not isinstance(self._values.get("use_cpu", False), bool):
            self._complain("use_cpu", f"expected true or false, got {self._values['use_cpu']!r}")
        ids = str(self._values.get("gpu_ids", "all")).replace(" ", "")
        first = ",".join(str(number) for number in range(self._whole("num_processes", 1)))
        if ids not in ("all", "None", first):
            self._complain("gpu_ids", f"say which GPUs outside of it: CUDA_VISIBLE_DEVICES={ids}, and gpu_ids: all")

    def _read_precision(self) -> None:
        wanted = self._values.get("mixed_precision", "no")
        wanted = "no" if wanted in (False, None) else str(wanted)  # YAML takes a bare no for false
        if wanted in PRECISIONS:
            if "mixed_precision" in self._values:
                self._set("train", "precision", PRECISIONS[wanted], "mixed_precision")
        else:
            self._complain("mixed_precision", f"{wanted} is not supported; there are {', '.join(PRECISIONS)}")

    def _read_deepspeed(self) -> None:
        config = self._mapping("deepspeed_config", DEEPSPEED)
        if config is None:
            return
        stage = config.get("zero_stage", 2)
        if config.get("deepspeed_config_file"):
            self._complain("deepspeed_config.deepspeed_config_file", "write its zero_stage and offload here instead")
        elif stage not in STAGES or not isinstance(stage, int):
            self._complain("deepspeed_config.zero_stage", f"stage {stage} is not supported; take 2 or 3")
        else:
            self._read_zero(config, f"deepspeed_zero{stage}", with_parameters=stage == max(STAGES))

    def _read_zero(self, config: Mapping[str, Any], plugin: str, *, with_parameters: bool) -> None:
        self._switch_on(plugin, "deepspeed_config")
        names = {"offload_optimizer": ("offload_optimizer_device", "offload_optimizer_nvme_path")}
        if with_parameters:
            names["offload_parameters"] = ("offload_param_device", "offload_param_nvme_path")
        for option, (device, folder) in names.items():
            if config.get(device) not in NOWHERE:
                self._set_option(plugin, option, str(config[device]), f"deepspeed_config.{device}")
            if config.get(device) == "nvme" and config.get(folder) not in NOWHERE:
                self._set_option(plugin, "nvme_path", str(config[folder]), f"deepspeed_config.{folder}")
        clipping = config.get("gradient_clipping")
        if isinstance(clipping, int | float) and not isinstance(clipping, bool):
            self._set("train", "max_grad_norm", clipping, "deepspeed_config.gradient_clipping")

    def _read_fsdp(self) -> None:
        config = self._mapping("fsdp_config", FSDP)
        if config is None:
            return
        self._switch_on("fsdp", "fsdp_config")
        for option, name in {"offload": "fsdp_offload_params", "reshard": "fsdp_reshard_after_forward"}.items():
            if isinstance(config.get(name), bool):
                self._set_option("fsdp", option, config[name], f"fsdp_config.{name}")
        if config.get("fsdp_activation_checkpointing") is True:
            key = "fsdp_config.fsdp_activation_checkpointing"
            self._set("train", "activation_checkpointing", True, key)

    def _mapping(self, key: str, known: Collection[str]) -> Mapping[str, Any] | None:
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            self._complain(key, f"expected settings below it, got {value!r}")
            return None
        for name in value:
            if name not in known:
                self._complain(f"{key}.{name}", f"unknown key{nearest(str(name), sorted(known))}")
        return value

    def _whole(self, key: str, default: int) -> int:
        value = self._values.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
            return value
        self._complain(key, f"expected a whole number from 1 to {MOST}, got {value!r}")
        return default

    def _switch_on(self, plugin: str, key: str) -> None:
        self.tables.setdefault("plugin", {})[plugin] = {}
        self.lines["plugin", plugin] = self._line(key)

    def _set_option(self, plugin: str, option: str, value: Any, key: str) -> None:
        self.tables["plugin"][plugin][option] = value
        self.lines["plugin", plugin, option] = self._line(key)

    def _set(self, table: str, option: str, value: Any, key: str) -> None:
        self.tables.setdefault(table, {})[option] = value
        self.lines[table, option] = self._line(key)

    def _line(self, key: str) -> int:
        """Of a key, or of the one above it, or of what the file is about."""
        return self._lines.get(key) or self._lines.get(key.partition(".")[0]) or self._lines["distributed_type"]

    def _complain(self, key: str, message: str) -> None:
        found = Problem(message=message, key=key, file=self._path, line=self._line(key))
        if found not in self.problems:
            self.problems.append(found)
