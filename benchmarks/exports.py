"""Whether proofs of exports tell good from bad: false alarms over good exports, and faults that are made on purpose.

Good exports are those of random tiny models (Llama, Qwen 2 and 3, Mistral, Gemma 3; several shapes, with and without
tied embeddings and rope scaling, float32 and bfloat16) with drawn adapters, by every exporter that is installed. The
faults are made one by one on a Llama and a Gemma 3. All goes through the plugins' own hooks, and each artifact is
asked in its own runtime.
Run: python benchmarks/exports.py [--models 50] [--seed 0] [--only alarms|faults] [--formats merged,gguf,mlx]
Exit code 1 when a good export was not proved, or a fault was.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import attrs
from export_faults import FAULTS, Fault
from export_models import Made, make
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from ftcore.api import Artifact, Proof, RunError, Verdict
from ftcore_plugins.reference import Options as ReferenceOptions
from ftcore_plugins.reference import Reference

CAUGHT = {Verdict.FAILED: "caught", Verdict.NOT_PROVED: "not proved", Verdict.PROVED: "MISSED"}


@attrs.frozen(kw_only=True)
class Tally:
    """Verdicts by format, the largest figures of good exports, and what must not have happened."""

    verdicts: dict[str, dict[str, int]] = attrs.field(factory=dict)
    largest: dict[str, float] = attrs.field(factory=dict)
    wrong: list[str] = attrs.field(factory=list)

    def add(self, name: str, verdict: str, kl: float = 0.0) -> None:
        """Count one."""
        counts = self.verdicts.setdefault(name, {})
        counts[verdict] = counts.get(verdict, 0) + 1
        self.largest[name] = max(self.largest.get(name, 0.0), kl)


def exporters(wanted: list[str]) -> Mapping[str, Callable[[], Any]]:
    """Those that are installed, each anew for every export."""
    from ftcore_plugins.gguf import Gguf
    from ftcore_plugins.gguf import Options as GgufOptions
    from ftcore_plugins.merge import Merge
    from ftcore_plugins.merge import Options as MergeOptions
    from ftcore_plugins.mlx import Mlx
    from ftcore_plugins.mlx import Options as MlxOptions

    known: dict[str, Callable[[], Any]] = {"merged": lambda: Merge(MergeOptions())}
    if find_spec("gguf") and find_spec("xllamacpp"):
        known["gguf"] = lambda: Gguf(GgufOptions(quantization=("f16", "q8_0", "q4_k_m")))
    if find_spec("mlx") and find_spec("mlx_lm"):
        known["mlx"] = lambda: Mlx(MlxOptions(quantization=("bf16", "8bit", "4bit"), group_size=32))
    return {name: made for name, made in known.items() if name in wanted}


def reference_of(made: Made, folder: Path) -> Path:
    """What the tuned model answers."""
    folder.mkdir()
    Reference(ReferenceOptions()).write_reference(made.run, made.loaded, made.data, folder)
    return folder


def exported(plugin: Any, made: Made, exports: Path) -> list[Artifact]:
    """Every artifact of one exporter."""
    exports.mkdir(parents=True, exist_ok=True)
    found = plugin.export(run=made.run, loaded=made.loaded, data=made.data, saved=made.saved, exports=exports)
    return [found] if isinstance(found, Artifact) else list(found)


def verified(plugin: Any, made: Made, artifact: Artifact, reference: Path) -> Proof:
    """The exporter's own verdict on what it has written."""
    names = ("run", "artifact", "reference")
    hook = plugin.verify
    given = {"run": made.run, "artifact": artifact, "reference": reference}
    taken = hook.__code__.co_varnames[: hook.__code__.co_argcount]
    proof: Proof | None = hook(**{name: given[name] for name in names if name in taken})
    if proof is None:
        raise SystemExit(f"{artifact.kind} is known to no plugin")
    return proof


def called(artifact: Artifact) -> str:
    """The kind with its quantization."""
    return f"{artifact.kind} {artifact.details.get('quantization', '')}".strip()


def good_exports(plugins: Mapping[str, Callable[[], Any]], count: int, seed: int, console: Console) -> Tally:
    """Verdicts over random models, all of which should be proved."""
    tally = Tally()
    for number in range(seed, seed + count):
        with tempfile.TemporaryDirectory() as scratch:
            made = make(Path(scratch), number)
            reference = reference_of(made, Path(scratch, "reference"))
            for name, proof in _proofs(plugins, made, reference, Path(scratch, "exports"), tally):
                kl = proof.figures.get("kl_mean", 0.0)
                tally.add(name, proof.verdict, kl)
                if proof.verdict is not Verdict.PROVED:
                    tally.wrong.append(f"model {number} ({made.name}), {name}: {proof.note}, {dict(proof.figures)}")
                    console.print(tally.wrong[-1], markup=False)
    return tally


def _proofs(
    plugins: Mapping[str, Callable[[], Any]], made: Made, reference: Path, exports: Path, tally: Tally
) -> Iterator[tuple[str, Proof]]:
    for kind, new in plugins.items():
        plugin = new()
        try:
            for artifact in exported(plugin, made, exports):
                yield called(artifact), verified(plugin, made, artifact, reference)
        except RunError as error:
            tally.add(kind, "refused")
            tally.wrong.append(f"{made.name}, {kind}: {error}")


def faults(plugins: Mapping[str, Callable[[], Any]], console: Console) -> Tally:
    """What becomes of each fault, on each format that can have it."""
    tally = Tally()
    for family in ("llama", "gemma3_text"):
        with tempfile.TemporaryDirectory() as scratch:
            made = make(Path(scratch), 0, family, plain=True)
            reference = reference_of(made, Path(scratch, "reference"))
            for fault in (fault for fault in FAULTS if fault.applies(made)):
                outcome = dict(_outcomes(plugins, fault, made, reference))
                if not outcome:
                    continue
                console.print(f"{family}, {fault.name}: {_shown(outcome)}", markup=False)
                for name, (verdict, note) in outcome.items():
                    tally.add(f"{family}: {fault.name}", verdict)
                    if verdict not in ("caught", "refused"):
                        tally.wrong.append(f"{family}, {fault.name}, {name}: {verdict}: {note}")
    return tally


def _outcomes(
    plugins: Mapping[str, Callable[[], Any]], fault: Fault, made: Made, reference: Path
) -> Iterator[tuple[str, tuple[str, str]]]:
    with tempfile.TemporaryDirectory() as scratch:
        altered = fault.alter(made, Path(scratch))
        for kind, new in plugins.items():
            if kind not in fault.kinds:
                continue
            plugin = new()
            try:
                with fault.inside():
                    # Apart, or one would convert what was damaged for another.
                    artifacts = exported(plugin, altered, Path(scratch, "exports", kind))
            except RunError as error:
                yield kind, ("refused", str(error))
                continue
            for artifact in artifacts:
                fault.damage(artifact.path)
                proof = verified(plugin, made, artifact, reference)
                yield called(artifact), (CAUGHT[proof.verdict], f"{proof.note} {dict(proof.figures)}")


def _shown(outcome: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{name} {verdict}" for name, (verdict, _) in outcome.items())


def show(console: Console, title: str, tally: Tally) -> None:
    """Counts as a table, and every wrong one in full."""
    columns = sorted({verdict for counts in tally.verdicts.values() for verdict in counts})
    table = Table("", *columns, *(["largest kl_mean"] if any(tally.largest.values()) else []), title=title)
    for name, counts in tally.verdicts.items():
        largest = [f"{tally.largest[name]:.1e}"] if any(tally.largest.values()) else []
        table.add_row(name, *(str(counts.get(column, 0)) for column in columns), *largest)
    console.print(table)
    for line in tally.wrong:
        console.print(line, markup=False)


def main() -> int:
    """Run what is asked for; 1 when a verdict was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["alarms", "faults"])
    parser.add_argument("--formats", default="merged,gguf,mlx")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it takes long, also into a file
    plugins = exporters(arguments.formats.split(","))
    console, start, wrong = Console(width=120), time.monotonic(), 0
    if arguments.only != "alarms":
        found = faults(plugins, console)
        show(console, "Faults that were made", found)
        wrong += len(found.wrong)
    if arguments.only != "faults":
        found = good_exports(plugins, arguments.models, arguments.seed, console)
        show(console, f"Good exports of {arguments.models} random models", found)
        wrong += len(found.wrong)
    console.print(f"{wrong} wrong, {time.monotonic() - start:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
