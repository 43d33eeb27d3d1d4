"""What classes keep after the worst loss, against each loss looked at by itself."""

import random

import pytest

from servingplan.solve.plan.losses import Survival
from servingplan.solve.plan.routing import kept_part
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.problem.placement import Packing
from tests.unit.solve.questions import random_question


def test_the_worst_loss_is_found_without_looking_at_each():
    for seed in range(630_400, 631_400):
        instance = instance_of(random_question(seed, survive=True))
        chance, survival = random.Random(seed), Survival(instance)
        copies = [chance.randint(0, min(3, most)) for most in instance.copies_limit]
        packing = Packing.tight(instance, copies)
        losses = survival.spot_losses() + survival.node_losses(packing)
        rates = [cls.requests_per_second for cls in instance.classes]
        parts = [1.0]
        for loss in losses:
            lost = {**dict(loss.lost), **{c: packing.copies[c] for c in loss.gone}}
            if any(count and packing.copies[c] for c, count in lost.items()):
                parts.append(kept_part(instance, packing.copies, rates, lost=lost, protected=loss.protected))
        assert survival.kept(losses, packing.copies, rates) == pytest.approx(min(parts), abs=1e-7), seed
        enough = chance.random()
        assert (survival.kept(losses, packing.copies, rates, enough=enough) >= enough) == (min(parts) >= enough), seed
