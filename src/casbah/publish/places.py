"""Where a collection goes: a prefix of the object store or a folder, seen the same way."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from casbah.errors import InputError, unwritable
from casbah.products.manifest import Product
from casbah.publishing import upload
from casbah.storage import Location, Store


class Place(Protocol):
    """Files by their names below one address, `/` between the parts."""

    name: str
    """The last part of the address."""

    def address(self, name: str) -> str:
        """The address of a file."""
        ...

    def names(self) -> Iterator[str]:
        """What lies there, an empty folder with a slash at its end; `InputError` where it can't be looked at."""
        ...

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file; None where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put a small file there; readers see the old one or the new one."""
        ...

    def put(self, name: str, product: Product) -> None:
        """Put a product there, or what is not there yet of it."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, and the folders that it leaves empty."""
        ...


def place_of(to: str, store: Store | None = None) -> Place:
    """The place that an address means: `s3://bucket/prefix`, or a directory."""
    if to.startswith(("s3://", "minio://")):
        return InStore(Location.parse(to), store)
    return InFolder(Path(to))


class InStore:
    """A prefix of the object store."""

    def __init__(self, root: Location, store: Store | None) -> None:
        key = root.key.strip("/")
        if not key:
            raise InputError(f"{root} is a whole bucket; an address in it is wanted, such as {root}maps/pisa")
        self.root = Location(root.bucket, key)
        self.name = key.rsplit("/", 1)[-1]
        self._store = store or Store.from_environment()

    def address(self, name: str) -> str:
        return str(self.root / name)

    def names(self) -> Iterator[str]:
        below = (self.root / "").key
        for found in self._store.list(self.root / ""):
            # Consoles of object stores make an object of this very name for an empty folder.
            if found.key != below:
                yield found.key.removeprefix(below)

    def read(self, name: str) -> bytes | None:
        where = self.root / name
        return self._store.read(where) if self._store.exists(where) else None

    def write(self, name: str, content: bytes) -> None:
        self._store.ensure_bucket(self.root.bucket)
        self._store.write(content, self.root / name)

    def put(self, name: str, product: Product) -> None:
        upload(product, self.root / name, self._store)

    def remove(self, name: str) -> None:
        self._store.remove(self.root / name)


class InFolder:
    """A folder of this machine, or of a share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name

    def address(self, name: str) -> str:
        return str(self.root / name)

    def names(self) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise unwritable(error)(
                    f"{error.filename} can't be read: {error.strerror}; name another place"
                ) from None

        for folder, folders, files in os.walk(self.root, onerror=refuse):
            base = Path(folder)
            for name in files + [name for name in folders if (base / name).is_symlink()]:
                yield (base / name).relative_to(self.root).as_posix()
            if not files and not folders and base != self.root:
                yield f"{base.relative_to(self.root).as_posix()}/"

    def read(self, name: str) -> bytes | None:
        file = self.root / name
        try:
            return file.read_bytes() if file.is_file() else None
        except OSError as error:
            raise unwritable(error)(f"{file} can't be read: {error.strerror}") from None

    def write(self, name: str, content: bytes) -> None:
        file = self.root / name
        partial = file.with_name(f".{file.name}.partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(error)(f"{file} can't be written: {error.strerror}") from None

    def put(self, name: str, product: Product) -> None:
        try:
            if type(product).open(self.root / name).digest == product.digest:
                return
        except InputError:
            pass  # There is none yet, or one that was damaged.
        product.copy_to(self.root / name)

    def remove(self, name: str) -> None:
        file = self.root / name
        try:
            if not name.endswith("/"):
                file.unlink(missing_ok=True)
                file = file.parent
            while file != self.root and not any(file.iterdir()):
                file.rmdir()
                file = file.parent
        except OSError as error:
            raise unwritable(error)(f"{file} can't be removed: {error.strerror}") from None
