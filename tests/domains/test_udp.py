"""The UDP and UDPMcast extensions: built from their directives, bound, and upgraded in traffic."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from spidl import domains
from spidl.domains import Domain, Identity, Interface, NameServer, only
from spidl.domains.build import build
from spidl.testing import expect

from .conftest import EXAMPLES, built

SOCKETS = Interface.read(EXAMPLES / "sockets.h")
MCAST = Interface.read(EXAMPLES / "udpmcast" / "UDPMcast.h")
STOP = b"\xff"
RECEIVERS, WINDOW = 2, 16
TIMEOUT = 20.0
"""Seconds, for a test that goes wrong."""


def receiver() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.settimeout(TIMEOUT)
    return made


def free_port() -> int:
    with receiver() as made:
        port: int = made.getsockname()[1]
        return port


class Traffic:
    """Numbered packets to the multicast extension; at most WINDOW are on their way, so that no
    socket's buffer overflows and every packet that is missing was lost by the extension."""

    def __init__(self, receivers: list[socket.socket], port: int) -> None:
        self.receivers = receivers
        self.to = ("127.0.0.1", port)
        self.sent = 0

    def send(self, count: int) -> None:
        """Send packets and take each in at every receiver, in order.  AssertionError where one is
        missing."""
        with receiver() as out:
            while count:
                window = min(WINDOW, count)
                for number in range(self.sent, self.sent + window):
                    out.sendto(b"%d" % number, self.to)
                for each in self.receivers:
                    for number in range(self.sent, self.sent + window):
                        assert each.recv(64) == b"%d" % number
                self.sent += window
                count -= window

    def stop(self) -> None:
        with receiver() as out:
            out.sendto(STOP, self.to)


class Kernel:
    """A name server with what the UDP extension may have of the C library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = NameServer()
        self.udp, self.mcast = Identity.create("UDP"), Identity.create("UDPMcast")
        process = Domain.from_process(sorted(SOCKETS.names), "Sockets")
        self.names.register("Sockets", process, only(self.udp.principal))

    def start_udp(self, example: str) -> tuple[ModuleType, Domain]:
        """Build and bind a version of UDP and export it; gives its binder and what it shows."""
        module = built(example, self.folder)
        whole = module.bind(self.names, self.udp)
        return module, module.export(
            self.names,
            self.udp,
            whole,
            lambda who: who in (self.udp.principal, self.mcast.principal),
        )


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def receivers() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(receiver()) for _ in range(RECEIVERS)]


class Forwarding:
    """UDPMcast at work in a thread."""

    def __init__(self, mcast: Domain, receivers: list[socket.socket]) -> None:
        self.functions = domains.client(mcast, MCAST)
        self.port = free_port()
        self.endpoint = self.functions.UDPMcast_Open(self.port)
        assert self.endpoint >= 0
        self.ports = [each.getsockname()[1] for each in receivers]
        self.taken = -2
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.taken = self.functions.UDPMcast_Forward(self.endpoint, self.ports, len(self.ports))


def test_packets_go_from_one_port_to_others(kernel: Kernel, receivers: list[socket.socket]) -> None:
    with expect("domain/denied"):  # UDP has to be there first
        built("udpmcast", kernel.folder).bind(kernel.names, kernel.mcast)
    _, udp = kernel.start_udp("udp")
    with expect("domain/denied"):  # and it is not for everybody
        built("udpmcast", kernel.folder).bind(kernel.names, Identity.create("UDPMcast"))
    mcast = built("udpmcast", kernel.folder).bind(kernel.names, kernel.mcast)
    assert "UDP_Send" in udp.exports
    assert "socket" not in udp.exports
    assert mcast.exports == MCAST.names
    forwarding = Forwarding(mcast, receivers)
    traffic = Traffic(receivers, forwarding.port)
    traffic.send(500)
    traffic.stop()
    forwarding.thread.join(TIMEOUT)
    assert forwarding.taken == 500
    assert forwarding.functions.UDPMcast_Passed(1) == 500


def test_udp_is_upgraded_while_traffic_flows(
    kernel: Kernel, receivers: list[socket.socket]
) -> None:
    """Thousands of swaps between two versions in the middle of traffic; no packet is lost, and
    both versions have had their part."""
    _, one = kernel.start_udp("udp")
    mcast = built("udpmcast", kernel.folder).bind(kernel.names, kernel.mcast)
    forwarding = Forwarding(mcast, receivers)
    _, two = kernel.start_udp("udp2")
    with kernel.mcast.active():
        assert kernel.names.query("UDP-extension") is two
    traffic = Traffic(receivers, forwarding.port)
    done, swaps, failures = threading.Event(), [0], list[BaseException]()

    def swap() -> None:
        old, new = one, two
        try:
            while not done.is_set():
                lost = domains.unresolve(old, mcast)
                assert domains.resolve(new, mcast) == lost
                assert len(lost) == 5
                old, new = new, old
                swaps[0] += 1
        except BaseException as error:
            failures.append(error)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        while swaps[0] < 2000 or traffic.sent < 4000:
            traffic.send(WINDOW * 10)
            assert not failures
    finally:
        done.set()
        swapper.join()
    assert failures == []
    traffic.stop()
    forwarding.thread.join(TIMEOUT)
    assert forwarding.taken == traffic.sent
    by_version = [forwarding.functions.UDPMcast_Passed(version) for version in (0, 1, 2)]
    assert by_version[0] == 0
    assert min(by_version[1:]) > 0
    assert sum(by_version) == traffic.sent


def test_one_word_links_the_same_modules_statically(
    tmp_path: Path, receivers: list[socket.socket]
) -> None:
    (program,) = build(str(EXAMPLES / "udpmcast"), str(tmp_path), link="static")
    port = free_port()
    words = [program, str(port), *(str(each.getsockname()[1]) for each in receivers)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        traffic = Traffic(receivers, port)
        traffic.send(100)
        traffic.stop()
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert (output, process.returncode) == ("100\n", 0)
