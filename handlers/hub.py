"""The handler of `source_type="hf_dataset"`: the Hugging Face hub, a local data set folder, a `save_to_disk` folder."""

from __future__ import annotations

import hashlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import datasets
import huggingface_hub.constants as hub
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from ftactors.core.errors import DatasetError
from handlers.base import Record
from handlers.splits import SplitsHandler

_ROWS_AT_ONCE = 1000
_ANSWER_TIMEOUT_S = 3.0


class HubHandler(SplitsHandler):
    """Reads what `datasets.load_dataset` reads; `format` is of no meaning here, for a data set says its own."""

    def split_names(self) -> list[str]:
        """Return the names of the data set's splits."""
        return list(self._splits)

    def split_rows(self, name: str) -> Iterator[Record]:
        """Yield a split's rows."""
        number = 0
        for table in self._splits[name].with_format("arrow").iter(_ROWS_AT_ONCE):
            for values in table.to_pylist():
                number += 1
                yield Record(values, f"{self.source.path_or_id}[{name}] row {number}")

    def split_size(self, name: str) -> int:
        """Return how many rows a split has."""
        return len(self._splits[name])

    def fingerprint(self) -> str:
        """Return a digest of the fingerprints that `datasets` gives the splits; they follow revision and files."""
        parts = [f"{name}={data._fingerprint}" for name, data in sorted(self._splits.items())]  # noqa: SLF001 - no other
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    @cached_property
    def _splits(self) -> Mapping[str, Dataset]:
        name, details = self.source.path_or_id, self.source.task_format_details
        folder = Path(name).expanduser()
        datasets.disable_progress_bars()  # they are for a person's terminal, and this goes to a log
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                loaded = load_from_disk(str(folder))
            else:
                if not folder.exists():
                    _give_up_a_silent_hub()
                loaded = load_dataset(str(folder) if folder.exists() else name, details.dataset_config_name)
        except ConnectionError as error:
            raise DatasetError(
                f"data set {name!r} is not in the local cache, and {hub.ENDPOINT} cannot be reached: {error}",
                hint="give path_or_id a local folder with the data set's files, or one that save_to_disk wrote",
            ) from error
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise DatasetError(f"data set {name!r} cannot be loaded: {error}") from error
        return loaded if isinstance(loaded, DatasetDict) else {"train": loaded}


def _give_up_a_silent_hub() -> None:
    """Put this process into the hub's offline mode where the hub does not answer within seconds.

    `datasets` would ask again for half a minute, even for a data set in the local cache. Offline it takes that.
    """
    if hub.HF_HUB_OFFLINE:
        return
    request = urllib.request.Request(hub.ENDPOINT, method="HEAD")  # noqa: S310 - the user's own setting, HF_ENDPOINT
    try:
        urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S).close()  # noqa: S310 - as above
    except urllib.error.HTTPError:
        return  # it has answered
    except OSError as error:  # URLError and TimeoutError
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # it has answered; `datasets` may trust other certificates
        hub.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
