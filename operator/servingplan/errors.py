"""All errors of this project, drawn once.

ServingPlanError
├── InputError          wrong input: field, value, what to do      (exit code 2, a condition)
├── Outdated            the plan changed meanwhile: the turn starts again
└── ApiError            the API server refused or could not be reached
    ├── NotFound        404
    ├── Forbidden       403: a permission that the operator lacks
    ├── Gone            410: the resource version is too old: list again
    ├── Conflict        409: another field manager owns the field, or the object changed meanwhile
    └── Invalid         422: the API server's schema refused the object
"""

from __future__ import annotations


class ServingPlanError(Exception):
    """Root of all errors that this project raises on purpose."""


class InputError(ServingPlanError):
    """Wrong input. The message names the field, the value, and what to do."""

    def __init__(self, field: str, value: object, advice: str) -> None:
        shown = repr(value)
        self.field = field
        self.value = value
        self.advice = advice
        super().__init__(f"{field}: {shown if len(shown) <= 120 else shown[:117] + '...'}: {advice}")


class Outdated(ServingPlanError):  # noqa: N818 (not an error: the answer is no longer needed)
    """The plan changed meanwhile, so the answer for its old state is no longer needed."""


class ApiError(ServingPlanError):
    """The API server answered with an error, or did not answer (``status`` 0)."""

    retry_after_seconds: float | None = None
    """The pause that the API server asked for; None if it did not."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        super().__init__(f"{status} {reason}: {message}")


class NotFound(ApiError):  # noqa: N818 (named as the API server's reason)
    """404: the object does not exist."""


class Forbidden(ApiError):  # noqa: N818
    """403: the operator's account lacks a permission; the message names verb and resource."""


class Gone(ApiError):  # noqa: N818
    """410: the API server no longer has the changes since a resource version."""


class Conflict(ApiError):  # noqa: N818
    """409: another manager owns a field that we would set, or the object changed since it was read."""


class Invalid(ApiError):  # noqa: N818
    """422 or 400: the object does not satisfy the API server's schema."""


def api_error(status: int, reason: str, message: str) -> ApiError:
    """The error of the class that belongs to an HTTP status."""
    kinds: dict[int, type[ApiError]] = {
        400: Invalid,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        410: Gone,
        422: Invalid,
    }
    return kinds.get(status, ApiError)(status, reason, message)
