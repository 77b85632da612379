"""Random conversations through the chat formatter: do the trained tokens read exactly the replies and their ends?

    python benchmarks/mask_fuzz.py --cases 10000 --seed 0

Each conversation (Unicode, control tokens, halves of them, empty turns, texts that look like headers, replies that
are their own question, one to five turns, with a system prompt and without) goes through every chat template of
tests/plugins/chat_cases.py. What must come out is written there a second time, in Python: which rows are dropped and
why, which tokens are trained, what they read, and that the model is given the tokens which it is given in use.
Prints violations and a summary; exits 1 if there is any.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "plugins"))

from chat_cases import Family, cases, families, faults, real_families, trained_formats

SHOWN = 3
BATCH = 2000


def main() -> int:
    """Run the cases through every template; the exit code says whether one was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="conversations for each template")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    known = {**families(), **real_families()}
    wrong = sum(_violations(name, family, arguments.cases, arguments.seed) for name, family in known.items())
    print(f"{arguments.cases} cases over each of {len(known)} chat templates: {wrong} violations")
    return 1 if wrong else 0


def _violations(name: str, family: Family, count: int, seed: int) -> int:
    start, wrong = time.process_time(), 0
    formats = trained_formats(family)
    for part in range(0, count, BATCH):
        drawn = list(cases(seed * 1_000_003 + part, min(BATCH, count - part)))
        for fault in faults(family, formats, drawn):
            wrong += 1
            if wrong <= SHOWN:
                print(f"{name}: {fault}")
    print(f"{name:24} {wrong} violations, {time.process_time() - start:.1f} s")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
