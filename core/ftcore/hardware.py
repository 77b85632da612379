"""Find hardware profiles, and pick one for this machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

LOW_MEMORY_GIB = 20
SHOWN = 40
"""Most characters of a wrong name that an error quotes."""


def shipped(folder: str) -> Path:
    """A folder that ships with ftcore: inside the package, or in the repository of an editable install."""
    package = Path(__file__).parent
    packaged = package / folder
    return packaged if packaged.is_dir() else package.parent.parent / folder


def hardware_profiles() -> dict[str, Path]:
    """Every shipped hardware profile by name."""
    return {path.stem: path for path in sorted(shipped("hardware_profiles").glob("*.toml"))}


def find_hardware_profile(name: str, folder: Path) -> Path | str:
    """The file of a hardware profile, or a sentence that says what is wrong.

    `name` is `auto`, the name of a shipped profile, or a path that ends in `.toml`, relative to `folder`.
    """
    if name.endswith(".toml"):
        path = folder / name
        try:
            return path if path.is_file() else f"no such file: {name} (looked in {folder})"
        except OSError as error:  # a name that the system cannot take
            return f"{error.strerror}: {name[:SHOWN]}"
    profiles = hardware_profiles()
    chosen = recommended_profile() if name == "auto" else name
    if chosen in profiles:
        return profiles[chosen]
    return f"no hardware profile {name!r}; there are {', '.join(profiles)}, or name a .toml file"


def recommended_profile() -> str:
    """The hardware profile for this machine, found without importing torch."""
    memory = nvidia_memory_gib()
    if memory:
        return "single_gpu_low_memory" if min(memory) < LOW_MEMORY_GIB else "single_gpu"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "apple_silicon"
    return "cpu"


def nvidia_memory_gib() -> list[float]:
    """Memory of each NVIDIA GPU in GiB, as the driver tells it; empty without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return [float(line) / 1024 for line in answer.stdout.split("\n") if line.strip().replace(".", "").isdigit()]
