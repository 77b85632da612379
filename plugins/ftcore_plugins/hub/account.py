"""Whose token it is and whether it may write, asked in seconds and without the hub's client, which waits for ever."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import attrs

from ftcore_plugins.common.hub_login import is_token

__all__ = ["Account", "Refused", "Unreachable", "account_of", "ask_account"]

SECONDS = 5.0
UNKNOWN = (401, 403)
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What comes of an answer that is not a hub's, or an address that is none."""


class Refused(Exception):  # noqa: N818
    """The hub does not know the token."""


class Unreachable(Exception):  # noqa: N818
    """The hub has not answered; says why."""


@attrs.frozen(kw_only=True)
class Account:
    """Who owns the token, in which organizations, and whether the token may write anywhere at all."""

    name: str
    organizations: frozenset[str]
    writes: bool

    def owns(self, repository: str) -> bool:
        """Whether the repository's owner is this account or one of its organizations."""
        return repository.partition("/")[0] in {self.name, *self.organizations}


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def ask_account(address: str, token: str) -> Account:
    """Raises `Refused` and `Unreachable`."""
    url = f"{address}/api/whoami-v2"
    if not url.startswith(("http://", "https://")):
        raise Unreachable("HF_ENDPOINT is no address")
    if not is_token(token):
        raise Refused
    # A token must not follow a redirection to another address.
    opener = urllib.request.build_opener(_Staying)
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        with opener.open(request, timeout=SECONDS) as answer:
            return account_of(json.load(answer))
    except urllib.error.HTTPError as error:
        if error.code in UNKNOWN:
            raise Refused from None
        raise Unreachable(f"status {error.code}") from None
    except (OSError, http.client.HTTPException, *UNREADABLE) as error:
        text = str(getattr(error, "reason", error)).strip().partition("\n")[0]
        raise Unreachable(text or type(error).__name__) from None


def account_of(answer: Mapping[str, Any]) -> Account:
    """The account in what the hub answers to `whoami`. A token of a kind that is not known is taken to write."""
    token = (answer.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    fine = token.get("fineGrained") or {}
    allowed = {right for scope in fine.get("scoped") or () for right in scope.get("permissions") or ()}
    writes = role != "read" and (role != "fineGrained" or "repo.write" in allowed | set(fine.get("global") or ()))
    names = frozenset(str(group["name"]) for group in answer.get("orgs") or () if group.get("name"))
    return Account(name=str(answer["name"]), organizations=names, writes=writes)
