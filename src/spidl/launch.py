"""The launcher, as the Python part sees it: where it is, how it is asked, how it comes back.

The launcher alone decides what selects a kept link (launcher/key.c) and how a program starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spidl.cache.store import Key
from spidl.diagnostics import LinkError, Place

LAUNCHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "spidl")
AGAIN = f"{LAUNCHER}-again"
"""Its second name, under which it takes an image back (SPIDL_STALE)."""


@dataclass(frozen=True, slots=True)
class Selected:
    """Where the kept link of a request is, or would be."""

    key: Key
    cache: str
    config: str | None
    """The user's spidl.toml, there or not."""
    program: str


def is_launcher(path: str, status: os.stat_result) -> bool:
    """Whether a file is the launcher, so that its name is no program's own (launcher/world.c)."""
    folder, name = os.path.split(path)
    if os.path.exists(os.path.join(folder, ".spidl", name)):
        return True
    try:
        return os.path.samestat(status, os.stat(LAUNCHER))
    except OSError:
        return False


def python_words() -> list[str]:
    """The command line that leads back here, in whatever surroundings a program is started.

    -P keeps the working folder out of sys.path, -E the variables that are meant for other Pythons;
    unless this one may have been found through PYTHONPATH (launcher/start.c passes no other).
    """
    paths = os.environ.get("PYTHONPATH", "")
    through = bool(paths) and all(path.startswith("/") for path in paths.split(":"))
    return [sys.executable, *([] if through else ["-E"]), "-P", "-m", "spidl"]


def command(*words: str) -> list[str]:
    """A command line of the launcher's.

    Raises `LinkError` ``start/no-launcher`` where it was not built.
    """
    if not os.access(LAUNCHER, os.X_OK):
        raise LinkError(
            "start/no-launcher",
            "the launcher is missing",
            place=Place(LAUNCHER),
            help="install spidl with pip, or run `make -C launcher` in a source tree; "
            "both need gcc",
        )
    return [LAUNCHER, *(f"--python={word}" for word in python_words()), *words]


def select(
    program: str,
    options: Sequence[str] = (),
    *,
    cache: str | None = None,
    config: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Selected:
    """What a request selects: the launcher says.

    ``options`` are the command line's --layout, --config, --with and --set; ``cache`` and
    ``config`` replace the user's own folder and spidl.toml.

    Raises `LinkError` ``cache/no-home``, ``cache/no-key``, ``start/no-launcher``.
    """
    import subprocess

    places = [f"--cache={cache}"] * bool(cache) + [f"--user-config={config}"] * bool(config)
    words = command("key", *places, *options, "--", program)
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except (OSError, ValueError) as error:
        raise LinkError("cache/no-key", f"the launcher cannot be asked: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        no_home = "start/no-cache" in said
        raise LinkError(
            "cache/no-home" if no_home else "cache/no-key",
            "there is no home folder to keep images in" if no_home
            else f"the request selects nothing that could be kept: {said}",
            help="set SPIDL_CACHE to a folder that you may write to" if no_home
            else "use fewer options and fewer LD_ variables",
        )  # fmt: skip
    name, folder, user_config, path, text = done.stdout.split(b"\0", 4)
    return Selected(
        Key(name.decode(), text), os.fsdecode(folder), os.fsdecode(user_config) or None,
        os.fsdecode(path),
    )  # fmt: skip
