"""The fields by which people name a replica and its engine, for questions (``lookup``) and for measurements (``rows``).

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. A wrong value raises ``ValueError`` with the
values that are known, which pydantic reports with the name of the field.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from servingplan.model.engine import ENGINES, KV_BYTES
from servingplan.model.llm import PRECISIONS

Count = Annotated[int, Field(ge=1)]


def _known_engine(engine: str) -> str:
    if engine not in ENGINES:
        raise ValueError(f"must be one of {', '.join(ENGINES)}")
    return engine


def _known_dtype(dtype: str) -> str:
    if dtype not in KV_BYTES:
        raise ValueError(f"must be one of {', '.join(KV_BYTES)}")
    return dtype


def _known_precision(precision: str) -> str:
    if precision.lower() not in PRECISIONS and precision != "auto":
        raise ValueError(f"must be auto or one of {', '.join(sorted(PRECISIONS))}")
    return precision.lower()


Engine = Annotated[str, AfterValidator(_known_engine)]
"""The name of an engine."""
KvCacheDtype = Annotated[str, AfterValidator(_known_dtype)]
"""The format of the KV cache, as vLLM's option has it."""
Precision = Annotated[str, AfterValidator(_known_precision)]
"""The precision of the weights in lower case; ``auto`` means the one in the model's name or card, else bf16."""
