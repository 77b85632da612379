"""Whose token it is and whether it may write, asked in seconds and without the hub's client, which waits for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ftcore_plugins.common.asking import Refused, Unreachable, ask
from ftcore_plugins.common.hub_login import is_token

__all__ = ["Account", "account_of", "ask_account"]


@attrs.frozen(kw_only=True)
class Account:
    """Who owns the token, in which organizations, and whether the token may write anywhere at all."""

    name: str
    organizations: frozenset[str]
    writes: bool

    def owns(self, repository: str) -> bool:
        """Whether the repository's owner is this account or one of its organizations."""
        return repository.partition("/")[0] in {self.name, *self.organizations}


def ask_account(address: str, token: str) -> Account:
    """Raises `Refused` and `Unreachable`."""
    url = f"{address}/api/whoami-v2"
    if not url.startswith(("http://", "https://")):
        raise Unreachable("HF_ENDPOINT is no address")
    if not is_token(token):
        raise Refused("it has signs that cannot be sent")
    answer = ask(url, {"Authorization": f"Bearer {token}"})
    try:
        return account_of(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unreachable(f"the answer is not the hub's: {error}") from None


def account_of(answer: Mapping[str, Any]) -> Account:
    """The account in what the hub answers to `whoami`. A token of a kind that is not known is taken to write."""
    token = (answer.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    fine = token.get("fineGrained") or {}
    allowed = {right for scope in fine.get("scoped") or () for right in scope.get("permissions") or ()}
    writes = role != "read" and (role != "fineGrained" or "repo.write" in allowed | set(fine.get("global") or ()))
    names = frozenset(str(group["name"]) for group in answer.get("orgs") or () if group.get("name"))
    return Account(name=str(answer["name"]), organizations=names, writes=writes)
