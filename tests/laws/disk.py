"""Real checkpoint files for the laws, in a folder that is gone afterwards; in memory where the machine has such a folder."""

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from factorstream.worker.adapters.files import Damaged, FileCheckpoints

IN_MEMORY = Path("/dev/shm")


class BurningFiles(FileCheckpoints):
    """Every file that is written burns the fuse; written before `begin` returns, so that a run is the same each time."""

    def __init__(self, folder, fuse, **settings):
        super().__init__(folder, **settings)
        self._fuse = fuse

    def begin(self, snapshot):
        super().begin(snapshot)
        self.wait()

    def _write(self, path, parts):
        self._fuse.burn()
        super()._write(path, parts)


class Disk:
    """A folder of checkpoints, which outlives the workers that crash."""

    def __init__(self, path, **settings):
        self.path = path
        self._settings = settings
        self._opened = None

    def open(self, fuse):
        """Return the folder's checkpoints for a worker that starts; those before it are dead."""
        self.close()
        self._opened = BurningFiles(self.path, fuse, **self._settings)
        return self._opened

    def damage_newest(self):
        """Damage a file of the newest checkpoint, if one before it is whole without that file, so that a start falls back."""
        store = FileCheckpoints(self.path)
        manifests = [store.manifest(path) for path in store.manifests()]
        if manifests:
            file = manifests[-1].arrays["users.factors"]
            if any(file not in before.files() and is_whole(store, before) for before in manifests[:-1]):
                (self.path / "data" / file.name).write_bytes(b"")

    def close(self):
        if self._opened is not None:
            self._opened.close()


def is_whole(store, manifest):
    try:
        store.read(manifest)
    except Damaged:
        return False
    return True


@contextmanager
def disk(**settings):
    """Lend a `Disk` whose checkpoints have these *settings*."""
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        lent = Disk(Path(folder), **settings)
        try:
            yield lent
        finally:
            lent.close()
