"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", envvar="FTACTORS_CONFIG", help="The service's configuration, as YAML or JSON."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, such as ftjob-0123456789ab.")]
