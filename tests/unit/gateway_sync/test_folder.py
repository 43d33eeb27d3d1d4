"""Files change all at once, and nothing is left of what they were."""

from servingplan.gateway_sync.folder import Folder


def content(path):
    return {item.name: item.read_text() for item in path.iterdir() if not item.name.startswith("..")}


def test_a_reader_sees_one_version_or_the_other(tmp_path):
    folder = Folder(tmp_path / "routing")
    assert folder.put({"a": "1", "b": "1"})
    assert content(folder.path) == {"a": "1", "b": "1"}
    assert folder.put({"b": "2", "c": "2"})
    assert content(folder.path) == {"b": "2", "c": "2"}
    assert len([item for item in folder.path.iterdir() if item.name.startswith("..version_")]) == 1


def test_the_same_files_are_not_written_again(tmp_path):
    folder = Folder(tmp_path)
    folder.put({"a": "1"})
    link = (tmp_path / "..data").readlink()
    assert not folder.put({"a": "1"})
    assert (tmp_path / "..data").readlink() == link


def test_one_that_was_killed_half_way_is_gone_on_with(tmp_path):
    before = Folder(tmp_path)
    before.put({"a": "1"})
    (tmp_path / "..version_1").mkdir()
    (tmp_path / "..version_1" / "a").write_text("half")
    (tmp_path / "..data_next").symlink_to("..version_1")
    after = Folder(tmp_path)
    assert after.put({"a": "2"})
    assert content(tmp_path) == {"a": "2"}
    assert not (tmp_path / "..version_1").exists()
    assert not (tmp_path / "..data_next").is_symlink()
