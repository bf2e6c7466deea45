"""The account that owns a repository on the Hub, as far as the Hub tells: plan, members, private storage."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from ladm_hf.publishing.repository import Repository
from ladm_hf.publishing.retry import hub_retries

# To read what a publication can do without: two tries, and no longer a wait than this, in seconds.
_TRIES, _PATIENCE = 2, 10.0


@dataclass(frozen=True)
class Account:
    """Who owns a repository.

    Attributes:
        name (`str`): of the user or organisation.
        plan (`str`, *optional*): `"free"`, `"pro"`, `"team"`, `"enterprise"`, ..., as the Hub calls it; `None` where it
            is not known.
        is_certain (`bool`): whether the Hub said so; an organisation of which it shows no plan counts as free.
        seats (`int`, *optional*): members of an organisation.
        private_used (`int`, *optional*): bytes of its private repositories.
        reason (`str`): why the plan is not known.
    """

    name: str
    plan: str | None = None
    is_certain: bool = False
    seats: int | None = None
    private_used: int | None = None
    reason: str = ""


def read_account(repo: Repository, private: bool) -> Account:
    """The owner of a repository; whatever the Hub does not tell, for whatever reason, is not known.

    Args:
        repo ([`Repository`]): which need not exist.
        private (`bool`): whether to ask for the private storage in use, too.
    """
    owner = repo.id.split("/")[0]
    if not repo.api.token:
        return Account(owner, reason="no token")
    policy = replace(repo.retry, tries=min(_TRIES, repo.retry.tries), timeout=min(_PATIENCE, repo.retry.timeout))
    with hub_retries(replace(policy, longest_asked_wait=min(_PATIENCE, policy.longest_asked_wait))):
        try:
            me = repo.api.whoami()
            account = _account(repo.api, owner, me)
        except Exception as error:  # whatever it is, publishing can do without
            return Account(owner, reason=repo.brief(error))
        if not private or account.plan is None:
            return account
        namespace = None if owner == me.get("name") else owner
        # older clients cannot ask, and a token may lack the right to
        with contextlib.suppress(Exception):
            repos = list(repo.api.list_user_repos(namespace))
            used = sum(each.storage for each in repos if each.visibility == "private")
            return replace(account, private_used=used)
        return account


def _account(api: Any, owner: str, me: dict[str, Any]) -> Account:
    if me.get("name") == owner and me.get("type", "user") == "user":
        if not isinstance(me.get("isPro"), bool):
            return Account(owner, reason="the Hub does not tell it")
        return Account(owner, "pro" if me["isPro"] else "free", True)
    found = next((each for each in [me, *me.get("orgs", [])] if each.get("name") == owner), None)
    if found is None:
        return Account(owner, reason=f"{me.get('name')}, whose token this is, is not among its members")
    # older clients have not all of its attributes
    shown = vars(api.get_organization_overview(owner))
    plan = found.get("plan") or shown.get("plan") or ("enterprise" if found.get("isEnterprise") else None)
    if plan is None:
        return Account(owner, "free", False, shown.get("num_users"))
    return Account(owner, str(plan).lower(), True, shown.get("num_users"), reason=f"the Hub calls it {plan!r}")
