"""Commands about models."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ftactors.cli.app import app, command
from ftactors.cli.lines import MODEL_COLUMNS, facts_of_model, model_row
from ftactors.cli.options import AsJson, ConfigFile
from ftactors.cli.output import Output
from ftactors.cli.session import service_config, service_meanwhile
from ftactors.core.errors import ModelNotFoundError, ServiceError
from ftactors.core.models import Model
from ftactors.core.problems import close_names

models = typer.Typer(no_args_is_help=True, help="List, show, import and delete models.")
app.add_typer(models, name="models", epilog="Example:\n  ftactors models list")

ModelIdArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")]


@command("ftactors models list", name="list", group=models)
def list_models(*, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the registered models, base and tuned, the oldest first.

    In a pipe: a line each, with tabs between id, kind, base, creation and path.
    """
    output = Output.here(as_json=as_json)
    found = asyncio.run(_registered(config, output))
    if as_json:
        output.document([model.model_dump(mode="json") for model in found])
    else:
        output.rows(MODEL_COLUMNS, map(model_row, found), empty="no models")


@command("ftactors models show smollm2-mine", group=models)
def show(model_id: ModelIdArgument, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show all that is known of a model: where it lies, what it was tuned from, and by which job."""
    output = Output.here(as_json=as_json)
    known = {model.model_id: model for model in asyncio.run(_registered(config, output))}
    if model_id not in known:
        raise ModelNotFoundError(f"there is no model {model_id!r}; {close_names(model_id, known)}")
    _tell(known[model_id], output)


@command(
    "ftactors models import smollm2 HuggingFaceTB/SmolLM2-135M-Instruct",
    "ftactors models import mine ./my-model",
    name="import",
    group=models,
)
def import_model(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="The id that jobs will name it by.")],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A directory with safetensors, a hub id, or a GGUF file.")
    ],
    *,
    revision: Annotated[str | None, typer.Option(help="A commit, branch or tag of the hub.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a base model under an id.

    A directory stays where it is, and is never deleted. A GGUF file is converted to safetensors, once.
    """
    output = Output.here(as_json=as_json)

    async def imported() -> Model:
        async with service_meanwhile(service_config(config), output) as service:
            model = await service.model_manager.import_model(model_id, source, revision=revision)
            if model is None:
                raise ServiceError(f"model {model_id!r} was not registered: the service stopped meanwhile")
            return model

    _tell(asyncio.run(imported()), output)


@command("ftactors models delete smollm2-mine", group=models)
def delete(model_id: ModelIdArgument, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Take a model out of the registry; refused while a job or an adapter needs it. Its files stay."""
    output = Output.here(as_json=as_json)

    async def deleted() -> Model:
        async with service_meanwhile(service_config(config), output) as service:
            return await service.model_manager.delete_model(model_id)

    model = asyncio.run(deleted())
    if as_json:
        output.document(model)
    else:
        output.line(f"model {model_id} is no longer registered; its files stay in {model.path}")


async def _registered(config: ConfigFile, output: Output) -> list[Model]:
    from ftactors.cli.reading import open_reading

    return await (await open_reading(service_config(config), output)).models()


def _tell(model: Model, output: Output) -> None:
    if output.as_json:
        output.document(model)
    else:
        output.facts(facts_of_model(model))
