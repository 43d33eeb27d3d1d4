"""Quantities are spelled as the API server spells them: the same amount, and always the same spelling of it."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.render.quantities import canonical, canonical_quantity

SUFFIXES = {
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{
        suffix: Fraction(1000) ** power
        for power, suffix in enumerate(["n", "u", "m", "-", "k", "M", "G", "T", "P", "E"], -3)
    },
    "": Fraction(1),
}
del SUFFIXES["-"]
thorough = settings(max_examples=200)
written = st.builds(
    lambda number, suffix: f"{number}{suffix}",
    st.one_of(
        st.integers(0, 10**6).map(str),
        st.builds("{}.{}".format, st.integers(0, 999), st.from_regex("[0-9]{1,3}", fullmatch=True)),
    ),
    st.sampled_from(sorted(SUFFIXES)),
)


def amount(text):
    suffix = text.lstrip("+-0123456789.")
    return Fraction(text.removesuffix(suffix)) * SUFFIXES[suffix]


@thorough
@given(written)
def test_the_amount_stays_the_same_or_is_rounded_up_to_thousandths(text):
    assert amount(canonical_quantity(text)) == Fraction(math.ceil(amount(text) * 1000), 1000)


@pytest.mark.slow
@thorough
@given(written)
def test_canonical_once_is_canonical_for_ever(text):
    once = canonical_quantity(text)
    assert canonical_quantity(once) == once


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("0.5", "500m"),
        (1, "1"),
        (0.25, "250m"),
        ("2000", "2k"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("1000Ki", "1000Ki"),
        ("16Gi", "16Gi"),
        ("0", "0"),
        ("0Gi", "0"),
        ("1e3", "1e3"),
        ("1E", "1E"),
        ("12e6", "12e6"),
        ("1000e3", "1e6"),
        ("1E4", "10e3"),
        ("0.5Ki", "512"),
        ("0.3Gi", "322122547200m"),
        ("+1", "1"),
        ("0.1m", "1m"),
        ("0.5n", "1m"),
    ],
)
def test_spelling_is_the_api_servers(given_as, kept_as):
    assert canonical_quantity(given_as) == kept_as


@pytest.mark.parametrize("text", ["", "many", "1.2.3", "1KiB", None, "1 Gi", "."])
def test_what_is_no_quantity_stays_for_the_api_server_to_refuse(text):
    assert canonical_quantity(text) == text


def test_only_amounts_are_touched():
    manifest = {
        "metadata": {"annotations": {"size": "1000m"}},
        "spec": {
            "containers": [
                {"args": ["1000m"], "resources": {"limits": {"cpu": "2000m"}, "requests": {"memory": "1024Mi"}}}
            ],
            "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "2048Mi"}}],
        },
    }
    assert canonical(manifest) == {
        "metadata": {"annotations": {"size": "1000m"}},
        "spec": {
            "containers": [{"args": ["1000m"], "resources": {"limits": {"cpu": "2"}, "requests": {"memory": "1Gi"}}}],
            "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "2Gi"}}],
        },
    }
