"""The shims for functions that are asked about /proc/self/exe, called as an image's thunks do."""

from __future__ import annotations

import pytest
from tinyimage import BOOT, DATA, Tiny

TARGET = b"/usr/bin/progX"
"""As long as /proc/self/exe."""
SHIM = """
    lea exe(%rip), %rdi
    lea exe(%rip), %rsi
    mov ${rdx}, %edx
    mov ${rcx}, %ecx
    {setup}
    lea real(%rip), %r10
    lea target(%rip), %r11
    mov $0x77, %eax
    mov ${shim}, %ebx
    call *%rbx
    mov %rax, {data}
    mov $1, %eax
    mov $1, %edi
    mov ${data}, %esi
    mov $64, %edx
    syscall
    mov $231, %eax
    mov $7, %edi
    syscall
real: mov (%{path}), %r8
    mov %r8, {data}+8                   # the path's first bytes
    mov 6(%{path}), %r8
    mov %r8, {data}+14                  # and its last
    movq $1, {data}+24
    ret
exe: .asciz "{asked}"
target: .asciz "/usr/bin/progX"
"""
BUFFER = DATA + 32


def shim(
    tiny: Tiny,
    name: str,
    asked: str = "/proc/self/exe",
    *,
    path: str = "rdi",
    setup: str = "",
    rdx: int = 0,
    rcx: int = 0,
) -> tuple[int, bytes | None, bytes]:
    """(result, the path that the real function got, the buffer)."""
    at = BOOT + tiny.boot.shims[name]
    code = SHIM.format(asked=asked, path=path, setup=setup, rdx=rdx, rcx=rcx, shim=at, data=DATA)
    done = tiny.run(tiny.image(code=code))
    assert done.returncode == 7
    called = done.stdout[24]
    return (
        int.from_bytes(done.stdout[:8], "little"),
        done.stdout[8:22] if called else None,
        done.stdout[32:64].rstrip(b"\0"),
    )


FIRST = ("open", "open64", "fopen", "fopen64", "stat", "access", "realpath")
SECOND = ("openat", "openat64", "__xstat", "faccessat", "fstatat")


@pytest.mark.parametrize(
    ("name", "path"), [(n, "rdi") for n in FIRST] + [(n, "rsi") for n in SECOND]
)
def test_shims_ask_for_the_program(tiny: Tiny, name: str, path: str) -> None:
    setup = "xor %edi, %edi" if path == "rsi" else ""
    result, asked, _ = shim(tiny, name, path=path, setup=setup)
    assert asked == TARGET
    if name != "fstatat":  # which is not variadic
        assert result == 0x77, "al, the number of vector registers, reaches a variadic function"
    for other in ("/proc/self/exf", "/proc/self/exe2", "/proc/self/ex.", "/proc/self/exe/"):
        assert shim(tiny, name, other, path=path, setup=setup)[1] == other.encode()[:14]


def test_a_link_itself_is_not_followed(tiny: Tiny) -> None:
    assert shim(tiny, "fstatat", path="rsi", rcx=0x100)[1] == b"/proc/self/exe"
    assert "lstat" not in tiny.boot.shims


@pytest.mark.parametrize("size", [1, 13, 14, 15, 24])
def test_readlink(tiny: Tiny, size: int) -> None:
    setup = f"mov ${BUFFER}, %esi"
    expected = (min(size, 14), None, TARGET[:size])
    assert shim(tiny, "readlink", setup=setup, rdx=size) == expected
    assert shim(tiny, "__readlink_chk", setup=setup, rdx=size, rcx=size) == expected
    setup = f"mov ${BUFFER}, %edx"
    assert shim(tiny, "readlinkat", path="rsi", setup=setup, rcx=size) == expected
    checked = setup + f"\nmov ${size}, %r8d"
    assert shim(tiny, "__readlinkat_chk", path="rsi", setup=checked, rcx=size) == expected


OWN_NUMBER = """
    mov $39, %eax                       # getpid, in digits that end at `exe` + 16
    syscall
    lea exe+16(%rip), %rdi
    mov $10, %ebx
1:  xor %edx, %edx
    div %ebx
    add $'0', %edx
    dec %rdi
    mov %dl, (%rdi)
    test %eax, %eax
    jnz 1b
    sub $6, %rdi
    movl $0x6f72702f, (%rdi)            # "/pro"
    movw $0x2f63, 4(%rdi)               # "c/"
"""


@pytest.mark.parametrize("ending", ["/exe", "/exf", "/ex", "/exe2", "", "1/exe"])
def test_readlink_knows_its_own_number(tiny: Tiny, ending: str) -> None:
    """realpath asks for /proc/N/exe, since /proc/self is a link."""
    asked = "." * 16 + ending
    result = shim(tiny, "readlink", asked, setup=f"{OWN_NUMBER} mov ${BUFFER}, %esi", rdx=20)
    if ending == "/exe":
        assert result == (14, None, TARGET)
    else:
        assert result[1] is not None
        assert result[1].startswith(b"/proc/")
    setup = f"{OWN_NUMBER} mov %rdi, %rsi; mov ${BUFFER}, %edx"
    result = shim(tiny, "readlinkat", asked, path="rsi", setup=setup, rcx=20)
    assert (result[1] is None) == (ending == "/exe")


def test_readlink_of_another_process(tiny: Tiny) -> None:
    for asked in ("/proc/1/exe", "/proc//exe", "/proc/", "/proc/99999999999/exe", "/prox/1/exe"):
        setup = f"mov ${BUFFER}, %esi"
        assert shim(tiny, "readlink", asked + r"\0" * 14, setup=setup, rdx=9)[1] is not None


def test_readlink_leaves_the_rest_to_the_real_one(tiny: Tiny) -> None:
    setup = f"mov ${BUFFER}, %esi"
    assert shim(tiny, "readlink", "/proc/self/cwd", setup=setup, rdx=9)[1] == b"/proc/self/cwd"
    assert shim(tiny, "readlink", setup=setup, rdx=0)[1] == b"/proc/self/exe"
    assert shim(tiny, "__readlink_chk", setup=setup, rdx=9, rcx=8)[1] == b"/proc/self/exe"


def test_shims_pass_a_null_path_on(tiny: Tiny) -> None:
    """open(NULL) is EFAULT, not a crash in a shim."""
    at = BOOT + tiny.boot.shims["open"]
    code = f"""
    xor %edi, %edi
    lea real(%rip), %r10
    mov ${at}, %ebx
    call *%rbx
    hlt
real: mov $231, %eax
    add $7, %edi
    syscall
"""
    assert tiny.run(tiny.image(code=code)).returncode == 7
