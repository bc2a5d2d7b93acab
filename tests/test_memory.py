"""What is free of a machine's memory, and of a container's."""

import pytest

from drafter.machine import memory

GB = 10**9
ONE = ("0::/a/b\n", "", "max", ("memory.max", "memory.current"))
EACH = ("8:pids:/\n7:cpu,memory:/a/b\n0::/a/b\n", "memory", 1 << 62, ("memory.limit_in_bytes", "memory.usage_in_bytes"))


@pytest.mark.parametrize(("said", "place", "no_limit", "names"), [ONE, EACH], ids=["one hierarchy", "one a kind"])
def test_a_container_has_what_its_groups_leave(said, place, no_limit, names, tmp_path, monkeypatch):
    """The least of its own group and those above; files that they hold can be dropped."""
    if memory.free_memory() is None:
        pytest.skip("this system does not say what is free")
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    own.write_text(said)
    monkeypatch.setattr(memory, "OWN_GROUPS", own)
    monkeypatch.setattr(memory, "GROUPS", groups)
    assert memory.free_memory() > 0  # no such files

    def write(folder, most, held, files):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(names, (most, held), strict=True):
            (folder / name).write_text(f"{content}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")

    root = groups / place
    write(root / "a/b", no_limit, GB, 0)
    assert memory.free_memory() > GB // 100
    write(root / "a", GB // 50, GB // 100, GB // 200)
    assert memory.free_memory() == GB // 50 - GB // 100 + GB // 200
    write(root / "a/b", GB // 50, GB // 50, 7)
    assert memory.free_memory() == 7
    write(root, GB, 2 * GB, 0)
    assert memory.free_memory() == 0
    for group in (root, root / "a", root / "a/b"):
        (group / "memory.stat").unlink()
    assert memory.free_memory() > GB // 100  # what can't be read binds nobody
