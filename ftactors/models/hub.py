"""Models of the Hugging Face hub: from the local cache, or from the hub itself, which must answer within seconds."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ftactors.models.files import ADAPTER_CONFIG, CONFIG

PROBE_TIMEOUT_S = 5.0
"""How long the hub may take to answer at all; the hub's own library tries for half a minute."""

_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
_UNWANTED = ["*/*", "consolidated*"]  # folders of other formats, and the same weights once more
_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_TRANSPORT_ERRORS = cast(
    "tuple[type[Exception], ...]", HfHubHTTPError.__bases__
)  # OSError, and the base of all errors of the hub's HTTP library


class NotOnHubError(LookupError):
    """The hub does not give us the model; the message, which follows the model's id, says why."""


def is_hub_id(text: str) -> bool:
    """Return whether the hub could have a model of this name."""
    return bool(re.fullmatch(rf"({_NAME}/)?{_NAME}", text)) and not re.search(r"--|\.\.|\.git$", text)


def cached(repo_id: str, revision: str | None = None) -> Path | None:
    """Return the newest snapshot of the model in the local cache, which may be incomplete; None where there is none."""
    for name in (CONFIG, ADAPTER_CONFIG):
        found = try_to_load_from_cache(repo_id, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def download(repo_id: str, revision: str | None = None) -> Path:
    """Return a complete snapshot of the model; its directory's name is the commit.

    Raises:
        NotOnHubError: the hub does not answer, or has no such model for us.
    """
    _probe()
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except GatedRepoError as error:
        raise NotOnHubError("is gated on the hub: ask for access there, and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise NotOnHubError("is not on the hub, or is private (then set HF_TOKEN)") from error
    except RevisionNotFoundError as error:
        raise NotOnHubError(f"has no revision {revision!r} on the hub") from error
    except _TRANSPORT_ERRORS as error:
        raise NotOnHubError(f"could not be downloaded from the hub: {error}") from error


def _probe() -> None:
    """Ask the hub for anything at all.

    Raises:
        NotOnHubError: there is no answer.
    """
    if constants.HF_HUB_OFFLINE:
        raise NotOnHubError("is not in the local cache, and HF_HUB_OFFLINE is set")
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_TIMEOUT_S):  # noqa: S310 - the hub's address
            return
    except HTTPError:
        return  # that is an answer
    except (URLError, TimeoutError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if not isinstance(reason, ssl.SSLError):  # the hub's library may know other certificates
            raise NotOnHubError(
                f"is not in the local cache, and {constants.ENDPOINT} does not answer: {reason}"
            ) from error
