"""The command line: one module a command. What is printed without a command imports nothing at all."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what type checkers take it for; importing typing would double the time of --help
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "run": "check, train, prove and ship what a profile says",
    "check": "find every mistake in a profile without heavy imports",
    "preview": "show rows as the model will see them, in the terminal or as a page",
    "plan": "say whether a run fits into memory, how long it takes and what it writes",
    "inspect": "list the model's linear layers, and what of it is trained",
    "hardware": "show this machine, the health of its libraries, and the hardware profile that fits it",
    "tune": "find the micro-batch that fits and is fastest by trying; write it as a hardware profile",
    "plugins": "list the installed plugins, or print the options of one",
    "schema": "print the JSON schema of profiles, for editors",
    "evaluate": "judge a run on held-out or other rows, with intervals, without training",
    "generate": "ask the model of a run: rows of a file, an image, a question, or a conversation line by line",
    "compare": "put runs, checkpoints and the base model side by side on the same rows",
    "export": "export a run or a checkpoint again, without training, and prove it",
    "verify": "prove that an exported file or folder answers like the tuned model",
    "sync": "send what trackers still lack of a run that has ended",
    "report": "write a run's report as a page anew, or one that compares several runs",
    "runs": "list runs with state, step and loss",
    "monitor": "watch a run from another terminal: progress, curves, GPUs, warnings",
    "checkpoint": "ask a running run for a checkpoint after its next step",
    "stop": "ask a running run for a clean stop, and wait until it has ended",
    "cache": "list or clear the prepared rows that runs share",
    "init": "write a commented profile for a task and this machine",
}
HIDDEN = ("worker", "trial", "tracker")
RUNNING = ("run", "worker")
USAGE_ERROR = 2
RESUMABLE = 75
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; 2 for a mistake in the profile or in the usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = given[0] if given else "--help"
    if first in COMMANDS or first in HIDDEN:
        try:
            return _run_command(first, given[1:])
        except KeyboardInterrupt:  # while the command is imported
            return INTERRUPTED
    if first in ("-h", "--help"):
        return _say(_help())
    if first in ("-V", "--version"):
        from ftcore import __version__

        return _say(f"ftcore {__version__}")
    return _unknown(first)


def _say(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has left (`ftcore --help | head`)
        sys.stdout = None
    except OSError as error:
        print(f"ftcore: standard output: {error.strerror}", file=sys.stderr)
        sys.stdout = None
        return 1
    return 0


def _help() -> str:
    commands = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return f"""usage: ftcore COMMAND ...

Fine-tune language and vision-language models from a profile.

commands:
{commands}

options:
  -h, --help     print this help
  -V, --version  print the version

ftcore COMMAND --help says more."""


def _unknown(name: str) -> int:
    from ftcore.structure import nearest

    kind = "option" if name.startswith("-") else "command"
    print(f"ftcore: no such {kind}: {name}{nearest(name, COMMANDS)}", file=sys.stderr)
    return USAGE_ERROR


def _run_command(name: str, arguments: Sequence[str]) -> int:
    import argparse
    import importlib
    import os

    if name in RUNNING:
        _end_as_resumable()
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        print("ftcore: the working directory is gone; change to another one", file=sys.stderr)
        return USAGE_ERROR
    from ftcore.cli.common import guarded

    command = importlib.import_module(f"ftcore.cli.{name}")
    parser = argparse.ArgumentParser(prog=f"ftcore {name}", description=command.__doc__)
    command.add_arguments(parser)
    return guarded(command.main, parser.parse_args(arguments))


def _end_as_resumable() -> None:
    """Answer SIGTERM with 75 from the first moment; the run's own handlers, which finish a step, come later."""
    import contextlib
    import os
    import signal

    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, lambda *_: os._exit(RESUMABLE))
