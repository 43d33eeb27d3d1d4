"""Which measurements fit the profiles, and which judge them.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. An error on data that was looked at while
fitting says little. So groups of measurements are set aside before anything is fitted: a group is everything that was
measured of one card, model, precision and tensor-parallel size, on whatever engine and version, at whatever lengths.
Rows of one group resemble each other; a row alone is never set aside.

The rule is a hash, so that it stands for measurements that are still to come, and cannot be chosen:

    key   = gpu|model|precision|tensor parallel, names as the catalogue has them, in lower case
    judge   where  int(sha256(key)[:8], 16) mod 5 < 2    (two groups in five), else fit

Nothing that is fitted, chosen or calibrated may look at a group of the judge part.
"""

import hashlib
from typing import Literal

Part = Literal["fit", "judge"]

_PARTS = 5
_JUDGES = 2


def part_of(*, gpu: str, model: str, precision: str, tensor_parallel: int) -> Part:
    """The part that a group of measurements belongs to.

    Args:
        gpu: name in the catalogue of cards; case does not matter.
        model: name in the catalogue of models.
        precision: of the weights, a key of ``model.llm.PRECISIONS``.
        tensor_parallel: GPUs that share every layer.
    """
    key = f"{gpu}|{model}|{precision}|{tensor_parallel}".lower()
    return "judge" if int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % _PARTS < _JUDGES else "fit"
