"""Show this machine, whether its libraries work, and which hardware profile fits it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.cli.common import print_json, table
from ftcore.errors import ProfileError
from ftcore.hardware.choice import Recommendation, recommended
from ftcore.hardware.health import Health, library_health
from ftcore.hardware.machine import Machine, this_machine
from ftcore.hardware.profiles import described, hardware_profiles, is_shipped

NAME_COLUMN = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore hardware`."""
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--quick", action="store_true", help="do not try the libraries, which takes some seconds")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("runs"), metavar="FOLDER", help="folder whose disk is meant"
    )


def main(parsed: argparse.Namespace) -> int:
    """Look, try, and recommend."""
    machine = this_machine(parsed.output_dir)
    profiles = [_profile(name, path) for name, path in hardware_profiles().items()]
    best = recommended(machine)
    health = [] if parsed.quick else library_health(machine)
    if parsed.json:
        print_json(
            {
                "machine": machine.as_json(),
                "libraries": [attrs.asdict(library) for library in health],
                "profiles": profiles,
                "recommended": {"profile": [*best.profiles], "reason": best.reason},
            }
        )
        return 0
    _print_machine(machine, health)
    print()
    rows = [[facts["name"], facts["from"], facts["summary"]] for facts in profiles]
    table(["hardware profile", "from", ""], rows)
    print(f"\n{_advice(best)}")
    return 0


def _profile(name: str, path: Path) -> dict[str, Any]:
    origin = "ftcore" if is_shipped(path) else str(path.parent)
    try:
        summary = described(name, path).summary
    except ProfileError as error:
        summary = f"broken: {error}"
    return {"name": name, "from": origin, "path": str(path), "summary": summary}


def _print_machine(machine: Machine, health: Sequence[Health]) -> None:
    rows = [
        ["system", f"{machine.system} {machine.architecture}"],
        ["processor", f"{machine.chip or 'unknown'}, {machine.cores} cores for this process"],
        ["memory", f"{machine.memory:.1f} GiB"],
        ["disk", f"{machine.disk:.1f} GiB free in {machine.place}"],
    ]
    for number, card in enumerate(machine.cards):
        bf16 = {True: ", bf16", False: ", no bf16", None: ""}[card.bf16]
        capability = f", compute capability {card.capability}" if card.capability else ""
        driver = f", driver {card.driver}" if card.driver else ""
        rows.append([f"GPU {number}", f"{card}{capability}{bf16}{driver}"])
    if not machine.cards:
        rows.append(["GPU", "the chip's own (MPS)" if machine.apple_silicon else "none"])
    for name, text in [*rows, *([library.name, str(library)] for library in health)]:
        print(f"{name:<{NAME_COLUMN}} {text}")


def _advice(best: Recommendation) -> str:
    names = ", ".join(f'"{name}"' for name in best.profiles)
    setting = f"[{names}]" if len(best.profiles) > 1 else names
    return f"recommended: [hardware] profile = {setting}, since {best.reason}"
