"""pytest tests/system/test_memory.py"""

import pytest

from gpt2ft.system import memory

MIB = 1 << 20


@pytest.fixture
def system(tmp_path, monkeypatch):
    """What the system says, in files of our own."""
    monkeypatch.setattr(memory, "ROOT", tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text), encoding="utf-8")

    write(proc__meminfo=f"MemTotal: 9000 kB\nMemAvailable: {100 << 10} kB\n")
    return write


def group(mount, names, *, most, used, cache):
    limit, usage, stat = names
    return {
        f"{mount}__{limit}": most,
        f"{mount}__{usage}": used,
        f"{mount}__memory.stat": f"anon 7\n{stat} {cache}\n",
    }


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")
MOUNT = "sys__fs__cgroup"


def test_what_the_machine_has_left(system):
    assert memory.available_bytes() == 100 * MIB


def test_a_system_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available_bytes() is None


def test_groups_of_version_2(system):
    """Also the limit of a group above; what the system keeps of files it can give up."""
    system(proc__self__cgroup="0::/job/step\n")
    sizes = {"used": 50 * MIB, "cache": 10 * MIB}
    system(**group(f"{MOUNT}__job__step", V2, most="max", **sizes))
    assert memory.available_bytes() == 100 * MIB
    system(**group(f"{MOUNT}__job", V2, most=70 * MIB, **sizes))
    assert memory.available_bytes() == 30 * MIB


def test_groups_of_version_1(system):
    """In a container the path is that of the machine, and only the top is there."""
    system(proc__self__cgroup="3:cpu:/docker/7\n2:memory:/docker/7\n0::/\n")
    sizes = {"used": 50 * MIB, "cache": 0}
    system(**group(f"{MOUNT}__memory", V1, most=2**63 - 4096, **sizes))
    assert memory.available_bytes() == 100 * MIB
    system(**group(f"{MOUNT}__memory", V1, most=40 * MIB, **sizes))
    assert memory.available_bytes() == 0


def test_this_machine_has_some_left():
    assert memory.available_bytes() > MIB
