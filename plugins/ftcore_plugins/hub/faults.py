"""What the hub's answers mean for the user who pushes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftcore.api import FtcoreError, RunError
from ftcore_plugins.common.hub import causes
from ftcore_plugins.common.hub_login import hub_address, token_source
from ftcore_plugins.hub.patience import status_of

__all__ = ["push_errors"]

UNKNOWN_TOKEN, NO_ROOM, FORBIDDEN, MISSING, TOO_LARGE, TOO_OFTEN, ILL = 401, (402, 507), 403, 404, 413, 429, 500
OTHERS = (409, 412)


@contextmanager
def push_errors(repository: str) -> Iterator[None]:
    """Turn what goes wrong on the way to `repository` into a `RunError` of one sentence."""
    try:
        yield
    except FtcoreError:
        raise
    except Exception as error:  # httpx, the hub's own and its uploader's share no base
        raise RunError(f"plugin.hub: {_sentence(repository, error)}") from error


def _sentence(repository: str, error: BaseException) -> str:
    from huggingface_hub import errors

    chain, source = list(causes(error)), token_source()
    for kind, sentence in (
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"),
        (errors.LocalTokenNotFoundError, "no HF_TOKEN to push with; set it, or run: hf auth login"),
        (
            errors.GatedRepoError,
            f"{repository} is gated, and the owner of the token of {source} has no access; ask for it at "
            f"{hub_address()}/{repository}",
        ),
    ):
        if any(isinstance(cause, kind) for cause in chain):
            return sentence
    status, said = status_of(error), _said(chain)
    if status:
        return _refusal(repository, status, said)
    if any(isinstance(cause, ConnectionError | TimeoutError | errors.HTTPError) for cause in chain):
        return f"the hub is out of reach ({said}); what has been pushed is kept"
    return f"{repository} cannot be pushed to: {said}"


def _refusal(repository: str, status: int, said: str) -> str:
    source, page = token_source(), f"{hub_address()}/settings/tokens"
    if status == FORBIDDEN and "storage" in said.lower():
        status = NO_ROOM[0]
    known = {
        UNKNOWN_TOKEN: f"the hub does not know the token of {source} ({said}); make another one at {page}",
        FORBIDDEN: f"the token of {source} may not write to {repository} ({said}); give it the write role at {page}, "
        f"or name a repository of its owner in plugin.hub.repository",
        MISSING: f"{repository} is not there, or the token of {source} may not see it ({said})",
        TOO_LARGE: f"a file is too large for the hub ({said}); lower plugin.merge.max_shard_size",
        TOO_OFTEN: f"the hub asks to wait ({said}); push again later",
        **dict.fromkeys(NO_ROOM, f"the hub has no room left for {repository} ({said}); free some, or get more"),
        **dict.fromkeys(OTHERS, f"somebody else pushes to {repository} ({said}); wait until that is done"),
    }
    ill = f"the hub is ill, and answers {status} again and again ({said}); what has been pushed is kept"
    return known.get(status, ill if status >= ILL else f"the hub refuses {repository} with status {status} ({said})")


def _said(chain: list[BaseException]) -> str:
    """What the hub itself said, else the last words of the library."""
    told = [text for cause in chain if (text := getattr(cause, "server_message", None))]
    text = told[0] if told else str(chain[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(chain[-1]).__name__
