"""Thread-local storage in all four models, in threads that run already and in later ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live

pytestmark = pytest.mark.usefixtures("each_way")
Build = Callable[..., Path]
MODELS = {
    "global-dynamic": "-ftls-model=global-dynamic",
    "local-dynamic": "-ftls-model=local-dynamic",
    "initial-exec": "-ftls-model=initial-exec",
    "descriptors": "-mtls-dialect=gnu2",
}
OWN = ("next_start", "next_zero", "next_shared", "deref", "aligned_ok")
OTHER = ("other_shared", "other_deref")
FIRST, SECOND = [42, 1, 8, 10, 1, 9, 5], [43, 2, 10, 10, 1, 11, 5]


def _user_option(model: str) -> str:
    # The variables are another library's, which local-dynamic code cannot name.
    return MODELS["global-dynamic" if model == "local-dynamic" else model]


@pytest.mark.parametrize("model", MODELS)
def test_each_thread_has_variables_of_its_own(build: Build, model: str) -> None:
    provider = build("tls.c", MODELS[model])
    user = build("tls_user.c", _user_option(model), f"-l:{provider.name}")
    ready, results = threading.Event(), dict[str, list[int]]()

    def early() -> None:
        ready.wait(60)
        results["early"] = check()

    thread = threading.Thread(target=early, daemon=True)
    thread.start()
    with live.load(user) as asks, live.load(provider, namespace=asks.namespace) as has:
        functions = [has.function(name) for name in OWN]
        functions += [asks.function(name) for name in OTHER]

        def check() -> list[int]:
            return [function() for function in (*functions, *functions)]

        def late() -> None:
            results["late"] = check()

        results["main"] = check()
        ready.set()
        thread.join()
        other = threading.Thread(target=late)
        other.start()
        other.join()
    assert results == dict.fromkeys(("main", "early", "late"), FIRST + SECOND)


@pytest.mark.parametrize("model", ["global-dynamic", "initial-exec"])
def test_a_later_library_uses_the_variables_of_an_earlier_one(build: Build, model: str) -> None:
    provider = build("tls.c", MODELS[model])
    user = build("tls_user.c", MODELS[model], f"-l:{provider.name}")
    namespace = live.Namespace()
    with live.load(provider, namespace=namespace) as has:
        assert has.function("next_shared")() == 8
        with live.load(user, namespace=namespace) as asks:
            assert [member.name for member in namespace.members] == [provider.name, user.name]
            assert asks.function("other_shared")() == 9
            assert has.function("next_shared")() == 10


def test_static_storage_that_is_used_up_is_an_error_and_leaves_nothing(
    build: Build, script: Callable[..., str]
) -> None:
    provider = build("tls.c", MODELS["initial-exec"])
    out = script(
        """
        import sys
        from spidl import live
        from spidl.diagnostics import LinkError
        from spidl.live import process
        kept = []
        try:
            for _ in range(1000):
                before = {*process.link_maps()}
                kept.append(live.load(sys.argv[1]))
        except LinkError as error:
            print(error.code, "GLIBC_TUNABLES" in str(error), len(kept) > 0)
        print({*process.link_maps()} == before)
        print(len(live.libraries()) == len(kept))
        print(all(library.function("next_start")() == 42 for library in kept))
        """,
        provider,
    )
    assert out == "live/static-tls True True\nTrue\nTrue\nTrue\n"
