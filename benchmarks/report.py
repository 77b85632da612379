"""What the report of a long run costs: time to make it, its size, and the time a browser takes to open and draw it.

    python benchmarks/report.py

Makes the folder of a vision task's run of 100,000 steps with two GPUs, 16 images and evaluations, builds its page by
`ftcore report`, and opens it in a headless Chromium: from the start of the navigation until every chart is drawn and
the next frame is due, by the browser's own clock. Exits 1 when the page is 3 MB or larger, takes 2 seconds or longer in
the median, or lacks the highest or the lowest loss of the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "kit"))

from synthetic_run import Synthetic

MOST_BYTES = 3_000_000
MOST_SECONDS = 2.0
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
DRAWN = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const charts = document.querySelectorAll('.chart').length;
  done([performance.now(), charts, document.querySelectorAll('.plot > svg').length]);
})))"""


def main() -> int:
    """Make the run, measure, and compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="how often the page is opened")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run = Synthetic(
            folder=Path(place) / "run", steps=parsed.steps, gpus=parsed.gpus, rows=16, evaluations=50
        ).write()
        print(f"{parsed.steps:,} steps, {(run / 'metrics.jsonl').stat().st_size / 1e6:.1f} MB of metrics.jsonl")
        faults = [*_built(run), *_opened(run / "report.html", parsed.rounds)]
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _built(run: Path) -> Iterator[str]:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ftcore.cli", "report", str(run)], check=True, capture_output=True)
    size = (run / "report.html").stat().st_size
    print(f"ftcore report: {time.perf_counter() - start:.1f} s, page of {size / 1e6:.2f} MB (goal: under 3)")
    if size >= MOST_BYTES:
        yield f"the page has {size} bytes"
    yield from _extremes(run)


def _extremes(run: Path) -> Iterator[str]:
    text = (run / "report.html").read_text("utf-8")
    data = json.loads(text.partition('id="measured">')[2].partition("</script>")[0])
    drawn = next(chart for chart in data["charts"] if chart["key"] == "loss")["series"][0]
    kept = dict(zip(drawn["steps"], drawn["values"], strict=True))
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines())
    losses = {line["step"]: line["loss"] for line in lines if line.get("loss") is not None}
    for choose in (min, max):
        step = choose(losses, key=losses.__getitem__)
        print(f"{choose.__name__} of all losses, at step {step:,}: {losses[step]:.6g}; drawn: {kept.get(step)}")
        if kept.get(step) != float(f"{losses[step]:.6g}"):
            yield f"the {choose.__name__} of the loss is not drawn"


def _opened(page: Path, rounds: int) -> Iterator[str]:
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    times = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=list(ARGUMENTS))
        for _ in range(rounds):
            opened = browser.new_page()
            opened.goto(page.as_uri())
            milliseconds, charts, drawn = opened.evaluate(DRAWN)
            times.append(milliseconds / 1000)
            opened.close()
            if drawn < charts:
                yield f"{drawn} of {charts} charts are drawn"
        browser.close()
    middle = statistics.median(times)
    print(
        f"open and draw {charts} charts: median {middle:.2f} s, slowest {max(times):.2f} s of {rounds} (goal: under 2)"
    )
    if middle >= MOST_SECONDS:
        yield f"the page takes {middle:.2f} s to open and draw"


if __name__ == "__main__":
    sys.exit(main())
