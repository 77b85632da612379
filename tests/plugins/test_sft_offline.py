"""A whole training and export reaches for no network and says nothing that a user cannot act on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path

def refuse(*arguments, **_):
    print("reached for the network:", arguments, flush=True)
    raise OSError("no network")

socket.getaddrinfo = refuse
socket.socket.connect = refuse

from tiny_kit import *
from ftcore.api import Decision, Verdict
from proof_kit import merge

run, rows = make_run(Path(sys.argv[2]), train={"max_steps": 2}), make_rows()
plugin = TinyModel(TinyOptions())
tokenizer = plugin.load_processor(run, rows)
data = prepare(tokenizer, rows)
loaded = Lora(LoraOptions()).adapt(run, plugin.load_model(run, tokenizer, None))
trainer = Sft(SftOptions()).make_trainer(run, loaded, data, {})
trainer.evaluate()
trainer.generate(data.validation, 4)
trainer.train(FakeControl(run.folder / "checkpoints", lambda step: Decision(checkpoint=True)), None)
trainer.save(run.folder / "adapter")
assert merge(run, loaded, data, run.folder / "adapter").proof.verdict is Verdict.PROVED
"""


def test_training_is_quiet_and_offline(tmp_path: Path) -> None:
    # Offline mode is off and no CI is claimed: either would hide what the libraries try.
    silent = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CI", "HF_HUB_DISABLE_TELEMETRY", "PYTHONWARNINGS"}
    environment = {name: value for name, value in os.environ.items() if name not in silent}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
