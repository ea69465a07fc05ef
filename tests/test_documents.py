from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ftactors.cli import main
from ftactors.core.config import FineTuningJobConfig
from ftactors.core.service_config import ServiceConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["packages"]


def commands_named_in(document: str) -> set[str]:
    """Return the words after `ftactors` where a line of code or a backquote begins with it."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return set(re.findall(r"(?:`|&& |^)ftactors ([a-z]+)", text, re.MULTILINE))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_and_the_yaml_of_the_readme_are_the_same_valid_job():
    (python,), (job, _) = blocks("python"), blocks("yaml")
    program, ran, _ = python.partition("asyncio.run(main())")
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)  # noqa: S102 - our own example, up to where it starts a service

    assert ran
    assert names["config"] == FineTuningJobConfig(**yaml.safe_load(job))


def test_the_readmes_service_configuration_is_valid():
    _, service = blocks("yaml")

    assert ServiceConfig(**yaml.safe_load(service)).max_concurrent_fine_tuning_jobs == 4


def test_the_readme_has_the_two_commands_of_a_new_user():
    commands = re.findall(r"^pip install .*$", README, re.MULTILINE)

    assert commands == [
        "pip install -e . -c constraints.txt && ftactors demo",
        "pip install -e '.[test]' -c constraints.txt && pytest",
    ]


@pytest.mark.parametrize("document", ["README.md", "cluster.yaml"])
def test_what_a_document_tells_to_type_is_a_command(document, capsys):
    named = commands_named_in(document)
    with pytest.raises(SystemExit) as end:
        sys.exit(main(["--help"]))
    commands = set(re.findall(r"^\W*([a-z]+)  ", capsys.readouterr().out, re.MULTILINE))

    assert end.value.code == 0
    assert named
    assert named - commands == set()


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_document_links_to_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)

    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_module_has_its_line_in_architecture_md():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = set()
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        folder = re.match(r"`([^`]+)`", title)
        assert folder, title
        listed |= {f"{folder[1]}/{name}" for name in re.findall(r"^\| `([^`]+\.py)` \|", body, re.MULTILINE)}
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }

    assert listed == modules
