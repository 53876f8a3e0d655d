"""A disk that stops the process, fails, or forgets, at any one of a run's operations.

`gpt2ft.system.durable` is the seam: every change to the disk is a call of one of its functions.
Trials run
in processes of their own, forked after one import; what a power failure leaves is worked out from
the record of a run (as Pillai et al., 2014, "All File Systems Are Not Created Equal").
"""

import errno
import functools
import itertools
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

from gpt2ft.system import durable

OPERATIONS = (
    *("write", "append", "write_tensors", "write_by", "sync_file", "sync_folder"),
    *("rename", "delete", "create_folder", "temporary_folder"),
)
WRITES = ("write", "append", "write_tensors", "write_by")
NEED_SPACE = (*WRITES, "sync_file", "create_folder", "temporary_folder")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def intercept(at_operation, names=OPERATIONS):
    """Put `at_operation(number, name, arguments, perform)` in the place of every operation."""
    counter = itertools.count()

    def wrapped(name, original):
        @functools.wraps(original)
        def operation(*arguments, **options):
            perform = functools.partial(original, *arguments, **options)
            return at_operation(next(counter), name, arguments, perform)

        return operation

    for name in names:
        setattr(durable, name, wrapped(name, getattr(durable, name)))


@dataclass(frozen=True)
class Fault:
    """At that operation: `stop` kills the process, an error number is what the disk answers.

    `torn`: the operation is half done by then. A disk without space stays so.
    """

    at: int
    what: str | int = "stop"
    torn: bool = False

    def __call__(self, number, name, arguments, perform):
        if self.what == "stop":
            if number == self.at:
                self._tear(name, arguments, perform)
                os.kill(os.getpid(), signal.SIGKILL)
            return perform()
        lasting = self.what in NO_SPACE and name in NEED_SPACE and number > self.at
        if number == self.at or lasting:
            self._tear(name, arguments, perform)
            raise OSError(self.what, os.strerror(self.what), str(arguments[0]))
        return perform()

    def _tear(self, name, arguments, perform):
        """Half of the operation, if there is such a thing."""
        if not self.torn:
            return
        path = Path(arguments[-1] if name == "write_by" else arguments[0])
        if name in WRITES:
            size = path.stat().st_size if name == "append" and path.exists() else 0
            perform()
            if name == "write_by":
                path = max(path.iterdir(), key=lambda file: file.stat().st_size)
            os.truncate(path, size + (path.stat().st_size - size) // 2)
        elif name == "delete" and path.is_dir():
            for file in sorted(path.iterdir())[::2]:
                file.unlink()


def can_be_torn(name):
    """Whether an operation can be half done."""
    return name in (*WRITES, "delete")


class Record:
    """What a run does to the disk below `root`, in order.

    `effects` are ("link", path, file), ("unlink", path), ("rename", path, path),
    ("content", file, bytes), ("sync_file", file) and ("sync", folder); a file is a number, None
    for a folder. `points` are (effects so far, name of the operation to come, steps committed).
    What happens to the disk between operations is an error: then this would prove nothing.
    """

    def __init__(self, root):
        self.root, self.effects, self.points, self.committed = root, [], [], 0
        self._names, self._numbers = {}, itertools.count()
        self._last = self._seen()

    def __call__(self, number, name, arguments, perform):
        self.points.append((len(self.effects), name, self.committed))
        before = self._seen()
        assert before == self._last, f"past the seam, before {name}{arguments}"
        result = perform()
        after = self._last = self._seen()
        if name == "sync_folder":
            self.effects.append(("sync", Path(arguments[0])))
        elif name == "sync_file":
            self.effects.append(("sync_file", self._names[Path(arguments[0])]))
        elif name == "rename":
            self._rename(*map(Path, arguments))
        else:
            self._note(before, after)
        return result

    def _seen(self):
        return {
            path: None if path.is_dir() else path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.name != ".lock"
        }

    def _rename(self, source, target):
        self.effects.append(("rename", source, target))
        for path in [path for path in self._names if source in (path, *path.parents)]:
            self._names[target / path.relative_to(source)] = self._names.pop(path)

    def _note(self, before, after):
        for path, content in after.items():
            if path not in before:
                self._names[path] = None if content is None else next(self._numbers)
                self.effects.append(("link", path, self._names[path]))
            if content is not None and content != before.get(path):
                self.effects.append(("content", self._names[path], content))
        for path in sorted(before.keys() - after.keys(), reverse=True):
            del self._names[path]
            self.effects.append(("unlink", path))


TEARS = (
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: bytes(len(content)),
    lambda content: content,
)


def after_power_loss(effects, keeps, tear):
    """What may be on the disk: path -> content, None for a folder.

    Names whose folder was synced after them are there; of the others those that `keeps(number)`.
    What was not settled is what `tear` makes of it.
    """
    synced, tree, settled, now = {}, {}, {}, {}
    for number, (kind, *what) in enumerate(effects):
        if kind == "sync":
            synced[what[0]] = number
    for number, (kind, *what) in enumerate(effects):
        if kind == "content":
            now[what[0]] = what[1]
        elif kind == "sync_file":
            settled[what[0]] = now[what[0]]
        elif kind != "sync":
            paths = [path for path in what if isinstance(path, Path)]
            lasts = any(synced.get(path.parent, -1) > number for path in paths)
            if lasts or keeps(number):
                _apply(tree, kind, *what)

    def content(file):
        old = settled.get(file, b"")
        kept = old if now[file].startswith(old) else b""
        return kept + tear(now[file][len(kept) :])

    return {path: None if file is None else content(file) for path, file in tree.items()}


def _apply(tree, kind, path, other=None):
    """One change of names, as far as it can be made."""
    below = [name for name in tree if path in name.parents]
    if kind == "link":
        tree[path] = other
    elif kind == "unlink" and not below:
        tree.pop(path, None)
    elif kind == "rename" and path in tree:
        for name in [name for name in tree if other in (name, *name.parents)]:
            del tree[name]
        for name in [path, *below]:
            tree[other / name.relative_to(path)] = tree.pop(name)


def crash_states(record, *, samples, seed=0):
    """Distinct states of the disk after a power failure: (steps committed, path -> content)."""
    chance, known = random.Random(seed), set()
    for n_effects, _, committed in record.points:
        effects = record.effects[:n_effects]
        choices = [(lambda _: False, TEARS[0]), (lambda _: True, TEARS[1])]
        for _ in range(samples):
            drawn = {number: chance.random() < 0.5 for number in range(n_effects)}
            choices.append((drawn.get, chance.choice(TEARS)))
        for keeps, tear in choices:
            tree = after_power_loss(effects, keeps, tear)
            key = (committed, frozenset((path, hash(content)) for path, content in tree.items()))
            if key not in known:
                known.add(key)
                yield committed, tree


def put_on_disk(tree, root, folder):
    """Make a state of the disk below `folder` that was worked out for `root`."""
    for path in sorted(tree):
        target = folder / path.relative_to(root)
        if not target.parent.is_dir():  # a lost folder takes its files along
            continue
        if tree[path] is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(tree[path])
