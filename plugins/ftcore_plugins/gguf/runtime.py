"""llama.cpp, by xllamacpp, in a process of its own: it answers for a GGUF. Neither torch nor transformers is imported.

What the library has calls for is asked in the process. Texts and chats are taken apart by llama.cpp's own server,
which listens on a free port of 127.0.0.1 behind a random key, and only for as long as the process lives.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import xllamacpp

from ftcore.api import RunError
from ftcore_plugins.common.proof.process import answer
from ftcore_plugins.common.proof.questions import Distribution
from ftcore_plugins.common.proof.reference import ImageProbe

MOST = 2048
"""Tokens whose probability is asked for: all of a vocabulary of 128,000 would take 2.6 s a position as JSON."""

TINY = 64 * 2**20
"""Bytes of a file that is calculated with one thread."""

SURE = 1e6
"""What a token's logit is raised by, so that it is taken."""

WAIT = 600.0
"""Seconds to wait for an answer of the server."""

LATE = 5.0
"""Seconds to wait for its reason when it does not load."""


class LlamaCpp:
    """A GGUF, and what belongs to it: `mmproj` is the file that sees images, `lora` an adapter for the model.

    `context` is the most tokens that it is asked, and `around` what the model's own processor writes on both sides of
    an image, and llama.cpp does not. Raises `RunError` with llama.cpp's own reason when it does not load.
    """

    def __init__(self, artifact: Path, *, context: int, mmproj: str = "", lora: str = "", around: str = "") -> None:
        self._key = secrets.token_urlsafe(16)
        settings = _settings(artifact, context, self._key)
        if mmproj:
            settings.mmproj.path = mmproj
        if lora:
            settings.lora_adapters = [_adapter(lora)]
        with _messages() as said:
            try:
                self._server = xllamacpp.Server(settings)
            except RuntimeError as error:
                raise RunError(_reason(said) or str(error)) from None
        self._sees, self._around = bool(mmproj), around
        self._letter = self._tokens("a", around=False)[-1]

    def tokens(self, text: str) -> Sequence[int]:
        """Token ids of a text without special tokens around it; control tokens in it count as such."""
        return self._tokens(text, around=False)

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """Token ids of a conversation as llama.cpp's server reads it: by the chat template in the file."""
        prompt = self._ask("/apply-template", {"messages": list(messages)})["prompt"]
        return self._tokens(prompt, around=True)

    def distributions(self, ids: Sequence[int], positions: Sequence[int]) -> Sequence[Distribution]:
        """What follows `ids[: position + 1]`, for each of the positions."""
        return [self._distribution(list(ids[: position + 1])) for position in positions]

    def greedy(self, prompt: Sequence[int], count: int) -> Sequence[int]:
        """So many most likely tokens after a prompt."""
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self._following(ids, 1)[0]["id"]))
        return ids[len(prompt) :]

    def image_distribution(self, probe: ImageProbe, image: Path) -> Distribution:
        """What follows a prompt with an image."""
        if not self._sees:
            raise NotImplementedError
        known = self._ask("/props")
        start = self._tokens("", around=True)
        text = probe.prompt
        if start and self._tokens(text, around=False)[: len(start)] == start:
            text = text.removeprefix(known["bos_token"])  # the server puts it there itself
        prompt = text.replace(probe.placeholder, f"{self._around}{known['media_marker']}{self._around}")
        data = base64.b64encode(image.read_bytes()).decode("ascii")
        return self._distribution({"prompt_string": prompt, "multimodal_data": [data]})

    def _distribution(self, prompt: Any) -> Distribution:
        top = self._following(prompt, MOST)
        # JSON has no not-a-number: llama.cpp writes null.
        values = [np.nan if token["logprob"] is None else token["logprob"] for token in top]
        return Distribution(ids=np.array([token["id"] for token in top]), log_probabilities=np.array(values))

    def _following(self, prompt: Any, most: int) -> Sequence[Mapping[str, Any]]:
        """The most likely tokens after a prompt, the best one first.

        Which of them is taken plays no part in it, so that it can be a letter: a server says nothing of a token
        that is a part of a character.
        """
        asked = {"prompt": prompt, "n_predict": 1, "n_probs": most, "logit_bias": [[self._letter, SURE]]}
        if self._sees:  # the call in the process then takes nothing but text
            found = self._ask("/completion", {**asked, "cache_prompt": True})["completion_probabilities"]
        else:
            completed = self._server.handle_completions({**asked, "cache_prompt": True})
            if "error" in completed:
                raise RunError(f"llama.cpp: {completed['error'].get('message', completed['error'])}")
            found = completed["choices"][0]["logprobs"]["content"]
        return list(found[0]["top_logprobs"])

    def _tokens(self, text: str, *, around: bool) -> list[int]:
        asked = {"content": text, "add_special": around, "parse_special": True}
        return list(self._ask("/tokenize", asked)["tokens"])

    def _ask(self, path: str, question: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        data = None if question is None else json.dumps(question).encode("utf-8")
        request = Request(self._server.listening_address + path, data, headers)  # noqa: S310 - our own server
        try:
            with urlopen(request, timeout=WAIT) as response:  # noqa: S310
                return dict(json.load(response))
        except HTTPError as error:
            raise RunError(f"llama.cpp: {json.load(error)['error']['message']}") from error


def _settings(artifact: Path, context: int, key: str) -> Any:
    """One conversation at a time, on the processor, with nothing rounded that need not be."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(artifact)
    settings.n_ctx = context
    settings.n_parallel, settings.n_threads_http = 1, 1
    settings.n_gpu_layers, settings.warmup, settings.fit_params = 0, False, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = _threads(artifact)
    # The file is judged and not the cache: that is rounded to float16 by default.
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.swa_full, settings.cache_ram_mib = True, 0  # a prompt goes on where the one before ended
    settings.api_keys, settings.ui, settings.verbosity = [key], False, 1
    return settings


def _threads(artifact: Path) -> int:
    """One for a tiny model: several wait for each other longer than they calculate, on a busy machine most of all."""
    if artifact.is_file() and artifact.stat().st_size < TINY:
        return 1
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def _adapter(path: str) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    return adapter


@contextmanager
def _messages() -> Iterator[Callable[[], str]]:
    """What is written to the error output inside, also by libraries; it is not shown."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: _read(file)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))


def _reason(said: Callable[[], str]) -> str:
    """The first error that llama.cpp tells: those after it only say that it has failed.

    It tells them from a thread of its own, which may come to it only after the call has failed.
    """
    end = time.monotonic() + LATE
    while not (errors := [line for line in said().splitlines(keepends=True) if " E " in line and line.endswith("\n")]):
        if time.monotonic() > end:
            return ""
        time.sleep(0.01)
    return errors[0].partition(" E ")[2].partition(": ")[2].removeprefix("error loading model: ").strip()


if __name__ == "__main__":
    answer(LlamaCpp)
