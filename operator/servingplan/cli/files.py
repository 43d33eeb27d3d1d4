"""Reads plans and worlds from files. Errors name the file, the field and what to do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from servingplan.model.world import Observation

Json = dict[str, Any]


def fail(message: str, code: int = 2) -> NoReturn:
    """Print a message on standard error and exit with ``code``."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def read_text(path: str) -> str:
    """The text of a file; ``-`` is standard input."""
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: cannot be read: {cause(error)}; name a readable file, or - for standard input")


def cause(error: Exception) -> str:
    """Why a file cannot be read, without its name and the system's number, which say nothing more."""
    return getattr(error, "strerror", None) or str(error)


def read_plan(path: str) -> Json:
    """The ``LLMServingPlan`` manifest of a YAML file."""
    import yaml

    from servingplan.api.v1alpha1 import API_VERSION, KIND
    from servingplan.errors import InputError

    try:
        documents = [item for item in documents_of(read_text(path)) if item]
    except yaml.YAMLError as error:
        fail(f"{path}: not YAML: {error}")
    except InputError as error:
        fail(f"{path}: {error}")
    plans = [item for item in documents if isinstance(item, dict) and item.get("kind") == KIND]
    if len(plans) != 1:
        fail(f"{path}: has {len(plans)} objects of kind {KIND}; exactly one is needed")
    if plans[0].get("apiVersion") != API_VERSION:
        fail(f"{path}: apiVersion: {plans[0].get('apiVersion')!r}: must be {API_VERSION}")
    manifest: Json = plans[0]
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        fail(f"{path}: metadata.name: is required; name the plan")
    for field in ("name", "namespace"):
        value = metadata.get(field)
        if value is not None and not (isinstance(value, str) and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", value)):
            fail(f"{path}: metadata.{field}: {value!r}: must be of lower case letters, digits and '-'")
    return manifest


def documents_of(text: str) -> Iterator[Any]:
    """The documents of a YAML file.

    Raises:
        yaml.YAMLError: it is not YAML.
        InputError: a key is there twice in one mapping, of which YAML's readers would silently take the last.
    """
    import yaml

    for root in yaml.compose_all(text, Loader=yaml.SafeLoader):
        _refuse_double_keys(root, "")
    yield from yaml.safe_load_all(text)


def items_of(text: str) -> Iterator[tuple[int, Any]]:
    """The items of the lists in a YAML file, each with its line; a document that is no list is one item.

    Raises:
        yaml.YAMLError: it is not YAML.
        InputError: a key is there twice in one mapping.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    while loader.check_node():
        root: Any = loader.get_node()
        _refuse_double_keys(root, "")
        for node in root.value if isinstance(root, yaml.SequenceNode) else [root]:
            item = loader.construct_document(node)
            if item is not None:
                yield node.start_mark.line + 1, item


def _refuse_double_keys(node: Any, where: str) -> None:
    import yaml

    from servingplan.errors import InputError

    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _refuse_double_keys(item, f"{where}[{number}]")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            field = f"{where}.{key.value}".removeprefix(".")
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    raise InputError(field, None, f"is given twice, in lines {lines[key.value]} and {line}; keep one")
                lines[key.value] = line
            _refuse_double_keys(value, field)


def world_of_plan(path: str, manifest: Json) -> Observation:
    """A world that ``servingplan world`` wrote, with the manifest's spec instead of its own. Ends the command if the world
    is of another plan, since its replicas and nodes would count as this plan's."""
    seen = read_world(path)
    metadata = manifest["metadata"]
    key = f"{metadata.get('namespace', seen.plan.namespace)}/{metadata['name']}"
    if seen.plan.key != key:
        fail(f"{path}: plan: {seen.plan.key!r}: is the world of another plan than {key}; give the world of this plan")
    return seen.model_copy(update={"plan": seen.plan.model_copy(update={"spec": manifest.get("spec")})})


def read_world(path: str) -> Observation:
    """The world in a file that ``servingplan world`` wrote."""
    from pydantic import ValidationError

    from servingplan.errors import in_words
    from servingplan.model.world import Observation

    try:
        return Observation.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        fail(f"{path}: {place}: {in_words(first)}; give a file that `servingplan world` wrote")
