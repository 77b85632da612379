"""List the model's linear layers, which of them an adapter touches, and what is trained; only the config is read."""

from __future__ import annotations

import argparse

from ftcore.cli.common import add_profile_arguments, complain, load, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore inspect`."""
    add_profile_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the counts and the layers as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Count the model on the meta device."""
    from ftcore.planning.layers import elsewhere, grouped, inspected, layer_lines
    from ftcore.planning.source import sketch_of

    known = sketch_of(load(parsed), complain)
    facts, quantization = known.facts, known.quantization
    if parsed.json:
        print_json(inspected(facts, quantization))
        return 0
    for line in layer_lines(grouped(facts, quantization)):
        print(line)
    print()
    print(f"parameters {facts.total:,}, of them trained {facts.trained:,} ({facts.trained / max(1, facts.total):.3%})")
    if facts.added:
        print(f"the model's own {facts.base:,}, the adapter's {facts.added:,} ({facts.adapter})")
    if beside := elsewhere(facts):
        print(f"{beside:,} of the adapter's are on what is not listed: experts in one tensor, or embeddings")
    return 0
