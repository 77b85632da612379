"""The folder of a run that nobody trained: a vision task's curves, events, scores, images and proofs, of any length.

Used by the tests of the report and by `benchmarks/report.py`. The same arguments make the same files.
"""

from __future__ import annotations

import json
import math
import random
import struct
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

ACTIONS = {"forward": 44, "left": 22, "right": 19, "pick/up": 9, "toggle": 6}
NASTY = "</script><script>document.title='broken'</script> & \"'` <img src=x onerror=alert(1)> https://evil.example"
BEGUN = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SECONDS = 0.4
SPIKE, MISSING, RESUMED = 0.37, 0.62, 0.5
"""Shares of the run at which the loss has its highest value, is no number, and the run went on."""


@attrs.frozen(kw_only=True)
class Synthetic:
    """What a run in `folder` would write. `gpus` cards are watched; every 25th step has samples of the machine."""

    folder: Path
    steps: int
    gpus: int = 1
    rows: int = 6
    evaluations: int = 10
    name: str = "synthetic"

    def write(self) -> Path:
        """Make the folder, and answer it."""
        self.folder.mkdir(parents=True)
        (self.folder / "samples").mkdir()
        for row in range(self.rows):
            (self.folder / "samples" / f"row-{row}.png").write_bytes(grid(row))
        lines = "".join(f"{json.dumps(line)}\n" for line in self.points())
        (self.folder / "metrics.jsonl").write_text(lines)
        events = sorted(self.events(), key=lambda event: (event["step"], event["event"] == "ended"))
        (self.folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        (self.folder / "samples" / "labels.json").write_text(json.dumps({"rows": [labelled()]}))
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest()))
        return self.folder

    def at(self, share: float) -> int:
        """A step."""
        return max(1, int(self.steps * share))

    def points(self) -> Iterator[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        dice, seen = random.Random(self.steps), 0
        for step in range(1, self.steps + 1):
            tokens = dice.randint(1800, 2100)
            seen += tokens
            yield {"step": step, "time": self.time(step), **self._measured(step, tokens, dice), "tokens_seen": seen}
            if step in self.evaluated():
                loss = self.held_out(step)
                scores = {f"eval_{name}": value for name, value in scores_at(step / self.steps).items()}
                yield {
                    "step": step,
                    "time": self.time(step),
                    "eval_loss": loss,
                    "eval_perplexity": math.exp(loss),
                    **scores,
                }

    def _measured(self, step: int, tokens: int, dice: random.Random) -> dict[str, float | None]:
        share = step / self.steps
        loss = 2.6 * math.exp(-6 * share) + 0.31 + dice.gauss(0, 0.02) + (4.0 if step == self.at(SPIKE) else 0.0)
        seconds = 0.38 + abs(dice.gauss(0, 0.03))
        found: dict[str, float | None] = {
            "loss": None if step == self.at(MISSING) else loss,
            "learning_rate": 2e-4 * min(1.0, share / 0.03) * (0.5 + 0.5 * math.cos(math.pi * share)),
            "grad_norm": abs(dice.gauss(0.8, 0.2)),
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "seconds": seconds,
            "data_seconds": 0.01 + abs(dice.gauss(0, 0.01)),
            "epoch": share * 3,
            "memory": 31.2 + share,
        }
        return found if step % 25 else {**found, **self._machine(share, dice)}

    def _machine(self, share: float, dice: random.Random) -> dict[str, float]:
        found = {"process_memory": 6.1 + share, "host_memory": 40 + dice.random(), "cpu": dice.uniform(20, 60)}
        for card in range(self.gpus):
            found[f"gpu{card}/memory"] = 35 + card * 0.3
            found[f"gpu{card}/utilization"] = dice.uniform(82, 99)
            found[f"gpu{card}/temperature"] = 61 + card + dice.random() * 4
            found[f"gpu{card}/power"] = dice.uniform(240, 300)
        return {f"system/{name}": value for name, value in found.items()}

    def held_out(self, step: int) -> float:
        """The held-out loss."""
        return 2.5 * math.exp(-5 * step / self.steps) + 0.42

    def evaluated(self) -> frozenset[int]:
        """Steps with an evaluation."""
        return frozenset(self.at(place / self.evaluations) for place in range(1, self.evaluations + 1))

    def time(self, step: int) -> float:
        """When a step ended."""
        return BEGUN.timestamp() + step * SECONDS

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of `events.jsonl`, in no order."""
        yield self._event("data", 0, ledger={}, proved=64)
        yield self._event("model", 0, base="google/gemma", parameters={"total": 4300079472, "trainable": 38490112})
        yield self._event("started", 0, from_step=0, total_steps=self.steps, metrics_bytes=0)
        yield self._event(
            "started", self.at(RESUMED), from_step=self.at(RESUMED), total_steps=self.steps, metrics_bytes=0
        )
        yield self._answers(0, "before")
        for step in sorted(self.evaluated()):
            yield self._answers(step, "during")
            yield self._event("checkpoint", step, path=f"checkpoints/step-{step:06}")
        notices = {"gradients-explode": SPIKE, "not-a-number": MISSING}
        for sign, share in notices.items():
            text, page = f"something is wrong: {sign}", f"docs/health.md#{sign}"
            yield self._event("notice", self.at(share), sign=sign, text=text, advice=f"try this: {NASTY}", page=page)
        yield self._answers(self.steps, "after")
        yield self._event("ended", self.steps, state="finished", reason="")

    def _event(self, kind: str, step: int, **values: Any) -> dict[str, Any]:
        return {"event": kind, "step": step, "time": self.time(step), **values}

    def _answers(self, step: int, when: str) -> dict[str, Any]:
        rows = [{**self._row(row), "answer": answer_at(row, step / self.steps)} for row in range(self.rows)]
        scores = scores_at(step / self.steps)
        return self._event("answers", step, when=when, loss=self.held_out(step), scores=scores, rows=rows)

    def _row(self, row: int) -> dict[str, Any]:
        return {
            "origin": f"grids.jsonl:{41 + row * 17}",
            "prompt": "You see a grid. Which action comes next?",
            "expected": list(ACTIONS)[row % len(ACTIONS)],
            "images": [f"samples/row-{row}.png"],
        }

    def manifest(self) -> dict[str, Any]:
        """`manifest.json`."""
        samples = [
            {**self._row(row), "before": answer_at(row, 0), "after": answer_at(row, 1)} for row in range(self.rows)
        ]
        return {
            "name": self.name,
            "created": BEGUN.isoformat(timespec="seconds"),
            "ended": (BEGUN + timedelta(seconds=round(self.steps * SECONDS))).isoformat(timespec="seconds"),
            "settings": {
                "run": {"name": self.name, "seed": 42},
                "train": {"learning_rate": 2e-4, "max_steps": self.steps},
                "plugin": {"gemma_grid": {"pan_and_scan": True}, "qlora": {"r": 64, "targets": ["q_proj", "v_proj"]}},
            },
            "plugins": [
                {"name": name, "distribution": "ftcore", "version": "0.1.0"} for name in ("gemma_grid", "qlora")
            ],
            "versions": {"ftcore": "0.1.0", "torch": "2.13.0"},
            "environment": {"python": "3.11.2", "machine": "x86_64", "cpus": 16, "bits": {"OMP_NUM_THREADS": "8"}},
            "state": "finished",
            "data": {"fingerprint": "ab" * 32, "ledger": LEDGER},
            "model": {"base": "google/gemma", "revision": "093f9f3", "fingerprint": "", "license": "gemma"},
            "step": self.steps,
            "total_steps": self.steps,
            "saved_at": self.steps,
            "loss": {"before": self.held_out(0), "after": self.held_out(self.steps)},
            "scores": {"before": scores_at(0), "after": scores_at(1)},
            "samples": samples,
            "exports": [
                self._export("merged", "proved", {"kl_mean": 1.1e-5}, {"dtype": "bfloat16"}),
                self._export("mlx", "not proved", {}, {"quantization": "4bit"}),
            ],
            "folder": str(self.folder.absolute()),
        }

    def _export(
        self, kind: str, verdict: str, figures: Mapping[str, float], details: Mapping[str, str]
    ) -> dict[str, Any]:
        proof = {"verdict": verdict, "figures": dict(figures), "note": "" if figures else "its images are not compared"}
        path = str(self.folder.absolute() / "exports" / kind)
        return {"kind": kind, "path": path, "details": dict(details), "proof": proof}


LEDGER = {
    "rows": 10000,
    "trained": 9480,
    "held_out": 500,
    "dropped": {"twin of a training row": 12, "longer than train.max_length": 8},
    "repeated": 0,
}


def answer_at(row: int, share: float) -> str:
    """Answers get better; one of those at the start is markup."""
    wanted = list(ACTIONS)[row % len(ACTIONS)]
    return wanted if share > row / 8 else ("", NASTY, "I think left")[row % 3]


def scores_at(share: float) -> dict[str, float]:
    """What `gemma_grid` says of answers."""
    right = {name: round(count * (0.2 + 0.8 * share)) for name, count in ACTIONS.items()}
    wrong = {name: count - right[name] for name, count in ACTIONS.items()}
    found = {"action_accuracy": sum(right.values()) / 100, "valid_answers": 1 - sum(wrong.values()) / 200}
    predicted = {**right, "(invalid)": sum(wrong.values())}
    return {
        **found,
        **{f"target/{name}": float(count) for name, count in ACTIONS.items()},
        **{f"predicted/{name}": float(count) for name, count in predicted.items()},
        **{f"confusion/{name}/{name}": float(count) for name, count in right.items() if count},
        **{f"confusion/{name}/(invalid)": float(count) for name, count in wrong.items() if count},
    }


def labelled() -> dict[str, Any]:
    """A row of `samples/labels.json`."""

    def piece(text: str, start: int, *, trained: bool = False, times: int = 1, mark: bool = False) -> dict[str, Any]:
        return {"text": text, "ids": [start + 7], "start": start, "trained": trained, "mark": mark, "times": times}

    head = [
        piece("<image>", 0, times=256, mark=True),
        piece("What next?\n", 256),
        piece(f"left {NASTY}", 257, trained=True),
        piece("<end>", 258, trained=True, mark=True),
    ]
    return {"origin": "grids.jsonl:1", "tokens": 259, "trained": 2, "pieces": {"head": head, "tail": [], "left_out": 0}}


def grid(seed: int, size: int = 8, cell: int = 12) -> bytes:
    """A PNG of coloured cells."""
    dice = random.Random(seed)
    colours = [(20, 20, 24), (180, 60, 50), (60, 140, 80), (70, 100, 190)]
    cells = [[bytes(dice.choice(colours)) * cell for _ in range(size)] for _ in range(size)]
    raw = b"".join(b"\0" + b"".join(line) for line in cells for _ in range(cell))
    side = size * cell
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
