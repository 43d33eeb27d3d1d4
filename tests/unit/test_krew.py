"""The plugin of kubectl as krew gets it: its manifest is true of the archive, and its first call installs it."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "9.9.9"
WHEEL = f"servingplan-{VERSION}-py3-none-any.whl"
ADDRESS = "https://example.org/downloads"
INFO = f"servingplan-{VERSION}.dist-info"
CONTENT = {
    "told.py": "import sys\ndef main():\n    print('told', *sys.argv[1:])\n    return 3\n",
    f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: servingplan\nVersion: {VERSION}\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/entry_points.txt": "[console_scripts]\nservingplan = told:main\n",
}
"""A wheel of that name that needs no other, so that nothing is fetched."""


def packed(folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in CONTENT.items():
            wheel.writestr(zipfile.ZipInfo(name), text)
        wheel.writestr(zipfile.ZipInfo(f"{INFO}/RECORD"), "".join(f"{name},,\n" for name in CONTENT))
    command = [sys.executable, str(REPOSITORY / "krew/pack.py"), str(folder / WHEEL), ADDRESS]
    archive, manifest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return Path(archive), yaml.safe_load(Path(manifest).read_text())


def test_the_manifest_is_true_of_the_archive(tmp_path):
    archive, manifest = packed(tmp_path / "dist")
    assert manifest["metadata"]["name"] == "servingplan"
    assert manifest["spec"]["version"] == f"v{VERSION}"
    (platform,) = manifest["spec"]["platforms"]
    assert platform["uri"] == f"{ADDRESS}/{archive.name}"
    assert platform["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    with tarfile.open(archive) as content:
        assert sorted(item["from"] for item in platform["files"]) == sorted(content.getnames())
        assert content.getmember(platform["bin"]).mode == 0o755
    assert not {"VERSION", "ARCHIVE_ADDRESS", "ARCHIVE_SHA256"} & set(str(manifest).split("'"))


def test_one_wheel_gives_one_archive(tmp_path):
    assert packed(tmp_path / "one")[0].read_bytes() == packed(tmp_path / "other")[0].read_bytes()


@pytest.mark.slow
def test_the_first_call_installs_it_and_later_ones_do_not(tmp_path):
    archive, manifest = packed(tmp_path / "dist")
    store, link = tmp_path / "store", tmp_path / "bin" / "kubectl-servingplan"
    with tarfile.open(archive) as content:
        content.extractall(store, filter="data")
    link.parent.mkdir()
    link.symlink_to(store / manifest["spec"]["platforms"][0]["bin"])

    def call(*arguments):
        environment = {"HOME": str(tmp_path / "home"), "PATH": str(Path(sys.executable).parent)}
        return subprocess.run(
            [sys.executable, str(link), *arguments], env=environment, capture_output=True, text=True, timeout=600
        )

    first, second = call("status", "chat"), call("top")
    assert (first.returncode, first.stdout) == (3, "told status chat\n"), first.stderr
    assert "installing" in first.stderr
    assert (second.returncode, second.stdout, second.stderr) == (3, "told top\n", "")
