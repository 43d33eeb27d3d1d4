"""Packs the archive that krew installs, and fills in the manifest that names it: ``make krew``.

python krew/pack.py WHEEL ADDRESS    ADDRESS: where the archive will be downloaded from, without its name
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = "kubectl-servingplan"


def pack(wheel: Path, address: str, folder: Path) -> tuple[Path, Path]:
    """Write archive and manifest into ``folder`` and return them. One wheel gives one archive, to the byte."""
    version = wheel.name.split("-")[1]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for file in (HERE / PROGRAM, wheel, HERE.parent / "LICENSE"):
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = file.stat().st_size, 0o755 if file.name == PROGRAM else 0o644
            with file.open("rb") as content:
                out.addfile(entry, content)
    archive = folder / f"{PROGRAM}-{version}.tar.gz"
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    lines = (HERE / "servingplan.yaml").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")) + "\n"
    filled = {
        "VERSION": version,
        "ARCHIVE_ADDRESS": f"{address}/{archive.name}",
        "ARCHIVE_SHA256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }
    for word in sorted(filled, key=len, reverse=True):
        text = text.replace(word, filled[word])
    manifest = folder / "servingplan.yaml"
    manifest.write_text(text)
    return archive, manifest


if __name__ == "__main__":
    print(*pack(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[1]).parent), sep="\n")
