"""ConfigMaps that a plan names: measured rates, a model's configuration, and objects of ours that lost their label."""

from __future__ import annotations

from servingplan.errors import ApiError, NotFound
from servingplan.kube import CONFIG_MAPS, Api
from servingplan.model import names
from servingplan.model.readings import SeenCatalogue, SeenModelConfig, SeenProfiles
from servingplan.model.world import Failure, LiveObject, PlanObject
from servingplan.observe import parse
from servingplan.observe.failures import failure
from servingplan.observe.state import Snapshot
from servingplan.profiles.config_json import CONFIG_KEY
from servingplan.profiles.rows import ROWS_KEY


class ConfigMaps:
    """Reads ConfigMaps by their names."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def without_label(
        self, plan: PlanObject, objects: list[LiveObject], wanted: tuple[str, ...], failures: list[Failure]
    ) -> list[LiveObject]:
        """ConfigMaps with our names but without our label: somebody else's, or ours with the label removed."""
        known = {item.name for item in objects if item.kind == "ConfigMap"}
        found = []
        for name in sorted(set(wanted) - known):
            try:
                raw = self._api.get(CONFIG_MAPS, name, namespace=plan.namespace)
            except NotFound:
                continue
            except ApiError as error:
                failures.append(failure("ConfigMaps", error))
                continue
            found.append(parse.object_of(raw, kind="ConfigMap", plan_uid=plan.uid))
        return found

    def profiles(self, seen: Snapshot, namespace: str, name: str) -> SeenProfiles:
        """The rows of measurements. A missing ConfigMap is a fact, not a failure: the plan goes on without it. A ConfigMap
        without the label for measured rates is not watched, so it is read."""
        known = next((item for item in seen.profiles if (item.namespace, item.name) == (namespace, name)), None)
        if known is not None:
            return _rows(name, known.rows)
        try:
            raw = self._api.get(CONFIG_MAPS, name, namespace=namespace)
        except NotFound:
            return SeenProfiles(
                config_map=name,
                problem_reason="ProfilesMissing",
                problem="does not exist; create it (servingplan profile import -o configmap), or remove it from the plan",
            )
        except ApiError as error:
            found = failure(f"the ConfigMap {name}", error)
            return SeenProfiles(config_map=name, problem_reason=found.reason, problem=found.message)
        return _rows(name, parse.seen_rates(raw).rows)

    def model_config(self, namespace: str, name: str) -> SeenModelConfig:
        """A model's own configuration. A missing one is a fact: the spec then has an error in that field."""
        try:
            raw = self._api.get(CONFIG_MAPS, name, namespace=namespace)
        except NotFound:
            return SeenModelConfig(config_map=name, problem=f"does not exist; create it with the key {CONFIG_KEY}")
        except ApiError as error:
            return SeenModelConfig(config_map=name, problem=failure(f"the ConfigMap {name}", error).message)
        text = (raw.get("data") or {}).get(CONFIG_KEY)
        if not isinstance(text, str):
            return SeenModelConfig(config_map=name, problem=f"has no key {CONFIG_KEY}")
        return SeenModelConfig(config_map=name, text=text)


def catalogues(seen: Snapshot) -> tuple[SeenCatalogue, ...]:
    """The installation's additions to the catalogue. That they cannot be read is a fact, not a failure."""
    state = seen.sources.get("catalogues")
    if state is not None and state.trouble is not None:
        where = f"ConfigMaps with the label {names.CATALOGUE_LABEL}"
        return (SeenCatalogue(config_map=where, kind="", problem=failure(where, state.trouble.error).message),)
    return tuple(
        SeenCatalogue(config_map=item.name, kind=item.kind, key=key, text=text)
        for item in sorted(seen.catalogues)
        for key, text in item.data
    )


def _rows(name: str, rows: str | None) -> SeenProfiles:
    if rows is None:
        return SeenProfiles(
            config_map=name,
            problem_reason="ProfilesMissing",
            problem=f"has no key {ROWS_KEY}; write it with servingplan profile import -o configmap",
        )
    return SeenProfiles(config_map=name, rows=rows)
