"""Fit the bands of the profiles: quantiles of measured over predicted, on the groups that are there to fit.

    python -m benchmarks.calibrate

Writes ``operator/servingplan/profiles/data/bands.csv``. To be run again after every change of the estimator or of the
measurements; `servingplan profile check` then shows what the bands hold on the groups that were set aside.
"""

import csv
from collections import defaultdict
from pathlib import Path

import servingplan.profiles
from servingplan.profiles.bands import LEAST_GROUPS, PROBABILITIES, Basis, calibrated, wider_classes
from servingplan.profiles.check import predictions
from servingplan.profiles.measured import SHIPPED

FILE = Path(servingplan.profiles.__file__).parent / "data" / "bands.csv"
COLUMNS = ("quantity", *Basis._fields, "groups", "rows", *(f"q{probability:g}" for probability in PROBABILITIES))


def rows(found):
    """Rows of the file, from predictions; classes with too few groups are left out, but the widest never is."""
    by_class: dict[tuple[str, ...], dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in found:
        if item.part != "fit":
            continue
        *classes, of_load, everything = wider_classes(item.basis)
        # What nothing is known of is as uncertain as what nobody measured.
        if item.condition in ("group", "card"):
            classes += [of_load, everything]
        for wider in classes:
            by_class[item.quantity, *wider][item.group].append(item.residual)
    for key, residuals in sorted(by_class.items()):
        if len(residuals) >= LEAST_GROUPS or set(key[1:]) == {"any"}:
            logs = calibrated(residuals)
            yield (*key, len(residuals), sum(map(len, residuals.values())), *(f"{log:.4f}" for log in logs))


def main():
    """Write the file, and say what is in it."""
    table = list(rows(predictions(SHIPPED.rows, SHIPPED)))
    with FILE.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(table)
    for row in table:
        print("  ".join(map(str, row)))


if __name__ == "__main__":
    main()
