"""A `.env` file in the working directory: tokens and logins that belong in no profile and in no shell's history."""

from __future__ import annotations

from pathlib import Path

from ftcore.errors import ProfileError

FILE = Path(".env")


def read_env_file() -> None:
    """Put what it says into the environment; a variable that is set already wins.

    Raises `ProfileError` for a line that is no `NAME=value`. Its values are never shown.
    """
    if not FILE.is_file():
        return
    from dotenv import load_dotenv
    from dotenv.parser import parse_stream

    try:
        with FILE.open(encoding="utf-8") as file:
            for binding in parse_stream(file):
                if binding.error or (binding.key is not None and binding.value is None):
                    raise ProfileError(f"{FILE}:{binding.original.line}: write NAME=value")
        load_dotenv(FILE, override=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{FILE} cannot be read: {error}; mend or remove it") from error
