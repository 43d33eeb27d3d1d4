"""The operator's image as this project builds it: read by the formats' own rules, with code of this test alone."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from localcluster import image, oci

NAME = "servingplan:0.1.0"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The archive, and the digest that its builder names."""
    folder = tmp_path_factory.mktemp("image")
    (digest,) = oci.write_archive(folder / "image.tar", [image.operator_image(folder)])
    return folder / "image.tar", digest


@pytest.fixture(scope="module")
def files(built):
    """Contents of the archive's small files, and digests of all, by name."""
    with tarfile.open(built[0]) as archive:
        names = archive.getnames()
        assert len(names) == len(set(names))
        found = {}
        for entry in archive:
            with archive.extractfile(entry) as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
                content.seek(0)
                found[entry.name] = (digest, entry.size, content.read() if entry.size < 10**6 else None)
        return found


def blob(files, descriptor):
    digest, size, content = files[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"]
    assert (f"sha256:{digest}", size) == (descriptor["digest"], descriptor["size"])
    return content


def manifest_of(files):
    (described,) = json.loads(files["index.json"][2])["manifests"]
    return json.loads(blob(files, described))


def test_it_is_an_oci_layout_whose_digests_are_those_of_its_blobs(built, files):
    assert json.loads(files["oci-layout"][2]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"][2])
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    (described,) = index["manifests"]
    assert described["digest"] == built[1]
    assert described["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert described["platform"] == {"architecture": oci.architecture(), "os": "linux"}
    assert described["annotations"] == {
        "io.containerd.image.name": f"docker.io/library/{NAME}",
        "org.opencontainers.image.ref.name": "0.1.0",
    }
    manifest = manifest_of(files)
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, described["mediaType"])
    config = json.loads(blob(files, manifest["config"]))
    for layer in manifest["layers"]:
        blob(files, layer)
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"  # so its digest is its diff_id
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"] for layer in manifest["layers"]]}
    for name, (digest, _, _) in files.items():
        assert not name.startswith("blobs/") or name == f"blobs/sha256/{digest}"


def test_it_is_also_what_docker_loads(files):
    (saved,) = json.loads(files["manifest.json"][2])
    manifest = manifest_of(files)
    assert saved["RepoTags"] == [NAME]
    assert files[saved["Config"]][0] == manifest["config"]["digest"].removeprefix("sha256:")
    layers = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
    assert [files[name][0] for name in saved["Layers"]] == layers


def test_it_starts_the_operator_and_not_as_root(files):
    config = json.loads(blob(files, manifest_of(files)["config"]))
    started = config["config"]
    assert (started["Entrypoint"], started["Cmd"]) == (["servingplan"], ["run"])
    user, _, group = started["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert set(started["ExposedPorts"]) == {"8080/tcp", "8081/tcp"}


def test_the_same_sources_make_the_same_image(built, tmp_path):
    """Without the cache too: every file is copied, compiled and packed anew."""
    (again,) = oci.write_archive(tmp_path / "again.tar", [image.operator_image(tmp_path, cache=tmp_path / "cache")])
    assert again == built[1]


@pytest.fixture(scope="module")
def root(built, files, tmp_path_factory):
    """The file system of a container: the layers over each other."""
    folder = tmp_path_factory.mktemp("root")
    folder.chmod(0o755)
    with tarfile.open(built[0]) as archive:
        for layer in manifest_of(files)["layers"]:
            content = archive.extractfile(f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}")
            with tarfile.open(fileobj=io.BufferedReader(content)) as packed:
                for entry in packed:
                    # Kept as the container's runtime would: root's, and nobody else may write.
                    assert (entry.uid, entry.gid, entry.mtime) == (0, 0, oci.MADE_AT)
                    assert entry.issym() or entry.mode & 0o444 == 0o444
                    assert entry.issym() or entry.mode & 0o022 == 0 or entry.name == "tmp"
                    packed.extract(entry, folder, filter="tar")
    return folder


def test_the_wheel_is_installed_and_compiled(root):
    packages = root / image.PACKAGES
    assert (packages / "servingplan-0.1.0.dist-info" / "METADATA").exists()
    sources = [path for path in packages.rglob("*.py") if "servingplan" in path.parts]
    assert len(sources) > 100
    tag = image.PYTHON.rpartition("python")[2].replace(".", "")
    for path in sources:
        (compiled,) = path.parent.glob(f"__pycache__/{path.stem}.cpython-{tag}.pyc")
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0"  # by hash, unchecked (PEP 552): no time is looked at


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root folder")
@pytest.mark.parametrize("user", ["65532:65532", "1000650000:0"])
def test_any_user_can_run_it(root, user):
    entered = [shutil.which("chroot"), f"--userspec={user}", str(root)]
    code = "import highspy, kopf, kubernetes, numpy, ssl; import servingplan.handlers.plan"
    for command, said in (
        (["/usr/bin/servingplan", "--version"], "servingplan 0.1.0"),
        ([image.PYTHON, "-c", f"{code}; print('imported')"], "imported"),
        (["/usr/bin/test", "-e", "/etc/passwd"], ""),
    ):
        done = subprocess.run([*entered, *command], env=image.ENVIRONMENT, capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
