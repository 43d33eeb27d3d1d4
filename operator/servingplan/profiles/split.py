"""Divides the measurements into those that fit the profiles and those that judge them.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. An error on data that was used for fitting says
little. So groups of measurements are set aside before anything is fitted. A group is all measurements of one card, model,
precision and tensor-parallel size, for all engines, versions and lengths. Rows of one group resemble each other, so only whole
groups are set aside.

The rule is a hash, so that it also holds for future measurements and nobody can choose the groups:

    key   = gpu|model|precision|tensor parallel, names as in the catalogue, in lower case
    judge   if  int(sha256(key)[:8], 16) mod 5 < 2    (two groups in five), else fit

Nothing that is fitted, chosen or calibrated may use a group of the judge part.
"""

import hashlib
from typing import Literal

Part = Literal["fit", "judge"]

_PARTS = 5
_JUDGES = 2


def part_of(*, gpu: str, model: str, precision: str, tensor_parallel: int) -> Part:
    """The part of a group of measurements.

    Args:
        gpu: the card's name in the catalogue; case does not matter.
        model: the model's name in the catalogue.
        precision: the precision of the weights, a key of ``model.llm.PRECISIONS``.
        tensor_parallel: the number of GPUs that share every layer.
    """
    key = f"{gpu}|{model}|{precision}|{tensor_parallel}".lower()
    return "judge" if int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % _PARTS < _JUDGES else "fit"
