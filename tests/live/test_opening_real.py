"""Libraries of the system that open others, loaded privately."""

from __future__ import annotations

import ssl
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p, create_string_buffer
from pathlib import Path

import pytest

from spidl import live


@pytest.mark.usefixtures("each_way")
def test_openssl_opens_its_legacy_provider() -> None:
    """Which is bound to the library that opened it, not to the one of Python's own ssl."""
    assert ssl.OPENSSL_VERSION.startswith("OpenSSL")
    crypto = live.load("libcrypto.so.3")
    load = crypto.function("OSSL_PROVIDER_load", c_void_p, [c_void_p, c_char_p])
    assert load(None, b"nobody") is None
    assert [member.name for member in crypto.namespace.members] == ["libcrypto.so.3"]
    provider = load(None, b"legacy")
    assert provider is not None
    names = [Path(member.path).name for member in crypto.namespace.members]
    assert names == ["libcrypto.so.3", "legacy.so"]
    (legacy,) = [item for item in live.libraries() if item.member is crypto.namespace.members[1]]
    providers = {Path(binding.provider).name for binding in legacy.bindings if binding.provider}
    assert "libcrypto.so.3" in providers
    inside = [b.address for b in legacy.bindings if (b.provider or "").endswith("libcrypto.so.3")]
    first = crypto.namespace.members[0]
    assert all(first.start <= address < first.end for address in inside)
    fetch = crypto.function("EVP_MD_fetch", c_void_p, [c_void_p, c_char_p, c_char_p])
    md4 = fetch(None, b"MD4", None)
    digest, length = create_string_buffer(64), c_uint()
    run = crypto.function(
        "EVP_Digest", c_int, [c_char_p, c_size_t, c_char_p, POINTER(c_uint), c_void_p, c_void_p]
    )
    assert run(b"abc", 3, digest, byref(length), md4, None) == 1
    assert digest.raw[: length.value].hex() == "a448017aaf21d8525fc10ae87aa6729d"  # RFC 1320
    crypto.function("EVP_MD_free", None, [c_void_p])(md4)
    assert crypto.function("OSSL_PROVIDER_unload", c_int, [c_void_p])(provider) == 1
