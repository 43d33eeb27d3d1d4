"""The rule that sets measurements aside never changes: what it gave once, it gives for ever."""

import hashlib

import pytest

from servingplan.profiles.split import part_of


@pytest.mark.parametrize(
    ("group", "part"),
    [
        (("A100-PCIE-80GB", "Llama-3.1-70B", "bf16", 2), "judge"),
        (("A100-PCIE-80GB", "Llama-3.1-70B", "bf16", 4), "fit"),
        (("H100-SXM-80GB", "Llama-3.1-8B", "bf16", 1), "judge"),
        (("H100-SXM-80GB", "Llama-3.1-8B", "fp8", 1), "fit"),
        (("H200-SXM-141GB", "Mixtral-8x7B", "fp8", 4), "judge"),
        (("L40S", "Llama-3.1-70B", "fp8", 8), "fit"),
    ],
)
def test_the_rule_stands(group, part):
    gpu, model, precision, tensor_parallel = group
    found = part_of(gpu=gpu, model=model, precision=precision, tensor_parallel=tensor_parallel)
    assert found == part
    assert found == part_of(
        gpu=gpu.upper(), model=model.lower(), precision=precision.upper(), tensor_parallel=tensor_parallel
    )


def test_two_groups_in_five_judge():
    parts = [
        part_of(gpu=f"card-{card}", model=f"model-{model}", precision=precision, tensor_parallel=size)
        for card in range(20)
        for model in range(20)
        for precision in ("bf16", "fp8")
        for size in (1, 2, 4, 8)
    ]
    assert parts.count("judge") / len(parts) == pytest.approx(0.4, abs=0.03)


def test_every_field_of_the_key_counts():
    base = {"gpu": "a", "model": "b", "precision": "fp8", "tensor_parallel": 1}
    digest = hashlib.sha256(b"a|b|fp8|1").hexdigest()
    assert part_of(**base) == ("judge" if int(digest[:8], 16) % 5 < 2 else "fit")
    for field in base:
        others = {part_of(**(base | {field: str(i) if field != "tensor_parallel" else i})) for i in range(1, 40)}
        assert others == {"fit", "judge"}
