"""The folder of enabled programs: links to the launcher, and what it reads beside them.

FOLDER/NAME is a symbolic link to the launcher; FOLDER/.spidl/NAME says what it starts, in strings
that begin with P, C, F, I or O (launcher/request.c) and end with NUL.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from spidl.cache.private import is_ours, is_private
from spidl.diagnostics import LinkError, Place
from spidl.files import write_whole
from spidl.launch import LAUNCHER, is_launcher, python_words

_KEPT = ".spidl"
_LARGEST = 1 << 16
"""Bytes; launcher/main.c reads no more."""
_TEMPORARY = ".spidl-"


@dataclass(frozen=True, slots=True)
class Enabled:
    """What stands behind an enabled name."""

    name: str
    program: str
    cache: str
    config: str | None
    """The user's spidl.toml, there or not."""
    options: tuple[str, ...] = ()
    """--layout, --config, --with and --set, as NAME=VALUE."""
    full_name: bool = False
    """argv[0] becomes the program's path."""

    def encode(self) -> bytes:
        """The file's bytes."""
        config = [f"F{self.config}"] if self.config else []
        words = [
            f"P{self.program}", f"C{self.cache}", *config,
            *(f"I{word}" for word in python_words()), *(f"O{word}" for word in self.options),
            *(["A"] if self.full_name else []),
        ]  # fmt: skip
        return b"".join(os.fsencode(word) + b"\0" for word in words)


def _decode(name: str, content: bytes) -> Enabled | None:
    if not content.endswith(b"\0"):
        return None
    found: dict[str, list[str]] = {}
    for word in content[:-1].split(b"\0"):
        text = os.fsdecode(word)
        found.setdefault(text[:1], []).append(text[1:])
    program = found.get("P", [""])[-1]
    if not os.path.isabs(program):
        return None
    return Enabled(name, program, found.get("C", [""])[-1], found.get("F", [None])[-1],
                   tuple(found.get("O", [])), "A" in found)  # fmt: skip


def folder_path() -> str:
    """$SPIDL_BIN, or spidl/bin in $XDG_DATA_HOME or ~/.local/share.

    Raises `LinkError` ``enable/no-home`` where none of them says a place.
    """
    chosen = os.environ.get("SPIDL_BIN")
    if chosen:
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(
        os.environ.get("HOME", ""), ".local", "share"
    )
    if not os.path.isabs(base):
        raise LinkError(
            "enable/no-home",
            "there is no home folder to put links into",
            help="set SPIDL_BIN to a folder of your own",
        )
    return os.path.join(base, "spidl", "bin")


class Folder:
    """Enabled programs.  What others may write to is not believed, as the launcher does not."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path or folder_path()
        self.kept = os.path.join(self.path, _KEPT)

    def link(self, name: str) -> str:
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """All that are enabled, whole or not."""
        found = set()
        with suppress(OSError):
            found = {n for n in os.listdir(self.kept) if not n.startswith(_TEMPORARY)}
        with suppress(OSError):
            found |= {n for n in os.listdir(self.path) if _leads_to_launcher(self.link(n))}
        return sorted(found)

    def read(self, name: str) -> Enabled | str:
        """What stands behind a name, or why the launcher would not believe it."""
        path = os.path.join(self.kept, name)
        try:
            if not is_private(self.kept):
                return f"another user could have written it: {self.kept}"
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or not is_ours(status):
                    return f"another user could have written it: {path}"
                if status.st_size > _LARGEST:
                    return f"it is damaged: {path}"
                content = file.read()
        except OSError as error:
            return f"{error.strerror}: {path}"
        return _decode(name, content) or f"it is damaged: {path}"

    def is_linked(self, name: str) -> bool:
        """Whether the name is a link of ours: to this launcher, or to one that was replaced."""
        path = self.link(name)
        if _leads_to_launcher(path):
            return True
        with suppress(OSError):
            file = os.lstat(os.path.join(self.kept, name))
            ours = stat.S_ISREG(file.st_mode) and is_ours(file)
            return ours and os.path.basename(os.readlink(path)) == os.path.basename(LAUNCHER)
        return False

    def prepare(self) -> None:
        """Make the folders.  Raises `LinkError` ``enable/cannot-write``, ``enable/not-private``."""
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            for folder, mode in ((self.path, 0o755), (self.kept, 0o700)):
                with suppress(FileExistsError):
                    os.mkdir(folder, mode)
                if not is_private(folder):
                    raise not_private(folder)
        except (OSError, ValueError) as error:
            raise _cannot_write(self.path, error) from None

    def check_name(self, name: str) -> None:
        """Raise `LinkError` ``enable/in-the-way`` where a name cannot be given to a link."""
        path = self.link(name)
        if name in ("spidl", _KEPT):
            raise LinkError(
                "enable/in-the-way", f"`{name}` is Spidl's own name", place=Place(path),
                help="a program of this name can be started with `spidl run` only",
            )  # fmt: skip
        if os.path.lexists(path) and not self.is_linked(name):
            raise LinkError(
                "enable/in-the-way",
                "there is something else of this name",
                place=Place(path),
                help="remove it, or set SPIDL_BIN to a folder that is only for enabled programs",
            )

    def write(self, enabled: Enabled) -> None:
        """Enable a program: first what the launcher reads, then the link to it.

        Raises `LinkError` as `prepare` and `check_name`, ``start/no-launcher``.
        """
        from spidl.launch import command

        launcher = command()[0]
        self.prepare()
        self.check_name(enabled.name)
        link = self.link(enabled.name)
        temporary = self.link(f"{_TEMPORARY}{os.urandom(8).hex()}")
        content = enabled.encode()
        if len(content) > _LARGEST:
            raise LinkError(
                "cli/usage", "the options are too long to be kept",
                help="put them into a spidl.toml and give --config",
            )  # fmt: skip
        try:
            write_whole(os.path.join(self.kept, enabled.name), content, 0o600)
            os.symlink(launcher, temporary)
            try:
                os.rename(temporary, link)
            except OSError:
                os.unlink(temporary)
                raise
        except (OSError, ValueError) as error:
            raise _cannot_write(link, error) from None

    def remove(self, name: str) -> None:
        """Disable a name; what stands there and is not ours stays.

        Raises `LinkError` ``enable/cannot-write``.
        """
        try:
            if self.is_linked(name):
                os.unlink(self.link(name))
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.kept, name))
        except OSError as error:
            raise _cannot_write(self.link(name), error) from None

    def faults(self) -> Iterator[LinkError]:
        """What keeps enabled programs from working, or new ones from being enabled."""
        for folder in (self.path, self.kept):
            try:
                if not is_private(folder):
                    yield not_private(folder)
                elif not os.access(folder, os.W_OK | os.X_OK):
                    yield _cannot_write(folder, PermissionError(13, "Permission denied"))
            except FileNotFoundError:
                return
            except OSError as error:
                yield _cannot_write(folder, error)

    def position(self) -> int | None:
        """The folder's place in PATH from 1; None where it is not in it."""
        return position_in_path(self.path)

    def path_line(self) -> str:
        """The line that puts the folder into PATH, for the user's shell."""
        home = os.environ.get("HOME", "").rstrip("/")
        path = self.path
        if os.path.basename(os.environ.get("SHELL", "")) == "fish":
            return f"fish_add_path --prepend {_quoted(path)}"
        below = home and path.startswith(f"{home}/")
        shown = f"$HOME{_escaped(path[len(home) :])}" if below else _escaped(path)
        return f'export PATH="{shown}:$PATH"'

    def is_first(self, program: str) -> bool:
        """Whether PATH leads to the folder before the one that a program is in."""
        own, other = self.position(), position_in_path(os.path.dirname(program))
        return own is not None and (other is None or own < other)


def position_in_path(folder: str) -> int | None:
    """The place of a folder in PATH, from 1."""
    wanted = os.path.realpath(folder)
    for place, part in enumerate(os.environ.get("PATH", os.defpath).split(":"), 1):
        if os.path.realpath(part or ".") == wanted:
            return place
    return None


def _leads_to_launcher(path: str) -> bool:
    try:
        return os.path.islink(path) and is_launcher(path, os.stat(path))
    except OSError:
        return False


def not_private(folder: str) -> LinkError:
    """Others could change what an enabled name starts."""
    return LinkError(
        "enable/not-private",
        "the folder belongs to another user, or others may write to it",
        place=Place(folder),
        help="chmod go-w it if it is yours, or set SPIDL_BIN to one of your own",
    )


def _cannot_write(path: str, error: OSError | ValueError) -> LinkError:
    return LinkError(
        "enable/cannot-write",
        f"cannot write there: {getattr(error, 'strerror', None) or error}",
        place=Place(path),
        help="set SPIDL_BIN to a folder that you may write to and that has room",
    )


def _escaped(text: str) -> str:
    """Text between the double quotes of a POSIX shell."""
    return "".join(f"\\{c}" if c in '"\\$`' else c for c in text)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
