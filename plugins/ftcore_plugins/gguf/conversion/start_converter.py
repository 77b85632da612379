"""Starts llama.cpp's converter: `python -P start_converter.py SCRIPT PRE_TOKENIZER ARGUMENTS`.

The converter recognizes a byte-level tokenizer by the ids of a certain text, and so refuses every vocabulary that it
has not seen. There the name of the pre-tokenizer is used that is given here, if it is not empty.
"""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ftcore_plugins.common.converters import end_with_parent


def main() -> None:
    """Run the script with the rest of the arguments."""
    end_with_parent()
    script, pre_tokenizer, *arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    if pre_tokenizer:
        _recognize_all(pre_tokenizer)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _recognize_all(pre_tokenizer: str) -> None:
    try:
        model = import_module("conversion.base").TextModel
    except ImportError:  # older versions are one script, and keep their own opinion
        return
    recognized = model.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> Any:
        try:
            return recognized(self, tokenizer)
        except NotImplementedError:
            return pre_tokenizer

    model.get_vocab_base_pre = get_vocab_base_pre


if __name__ == "__main__":
    main()
