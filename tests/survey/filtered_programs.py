"""Real work of programs with many libraries or plug-ins, as data for a survey."""

from __future__ import annotations

import sys

from ..programs.filtered_work import Filtered, words_of

PYTHON = """
import concurrent.futures, getpass, hashlib, json, os, pwd, socket, sqlite3, ssl, subprocess
import sys, tempfile, threading, zlib
print(pwd.getpwuid(0).pw_name, json.dumps({"a": [1]}), zlib.crc32(b"x"))
print(hashlib.sha256(b"x").hexdigest()[:8], ssl.create_default_context().minimum_version.name)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda n: n * n, range(100))))
a, b = socket.socketpair(); a.sendall(b"hello"); print(b.recv(9))
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as client:
        print(server.accept()[1][0], socket.getaddrinfo("localhost", 80, 0, 1)[0][4][1])
with sqlite3.connect("data.db") as db:
    db.execute("create table t (x)"); db.execute("insert into t values (7)")
    print(db.execute("select x from t").fetchall())
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("text"); file.flush(); os.fsync(file.fileno()); print(os.stat(file.name).st_size)
child = os.fork()
if child == 0: os._exit(5)
print(os.waitpid(child, 0)[1] >> 8, sorted(os.listdir(".")))
print(subprocess.run([sys.executable, "-S", "-c", "print(6 * 7)"], capture_output=True).stdout)
"""
NODE = """
const f = require('fs'), http = require('http');
f.promises.readFile('file', 'utf8').then(text => {
  console.log(text, require('crypto').createHash('sha1').update(text).digest('hex'));
  http.createServer((q, r) => r.end('x')).listen(0, '127.0.0.1', function () {
    http.get(this.address(), r => { console.log(r.statusCode); process.exit(3) });
  });
});
"""
RUBY = """
require 'socket'; require 'digest'
puts Digest::MD5.hexdigest('x'), [3, 1].sort.inspect
a, b = UNIXSocket.pair; a.puts 'hi'; puts b.gets; puts Thread.new { 7 }.value
Process.wait(fork { exit 4 }); p $?.exitstatus; puts `echo out`
"""
PHP = """
echo md5('x'), json_encode([1]), PHP_EOL, `echo hi`; file_put_contents('o', 'x');
print_r(scandir('.'));
"""
LUA = """
print(os.time{year=2000, month=1, day=1}, io.open('file'):read('a'), os.tmpname() ~= nil)
print(io.popen('echo x'):read('a'))
"""
EMACS = '(progn (princ (featurep \'x)) (princ (shell-command-to-string "echo x")))'
NUMPY = """
import numpy as n
print(n.linalg.inv(n.eye(300))[0, 0], n.random.default_rng(1).integers(9), n.fft.fft([1, 0]))
"""
FFMPEG = (
    "-f lavfi -i testsrc=d=1:s=160x120:r=10 -c:v libx264 -threads 3 -y out.mkv",
    "-i out.mkv -f md5 -", "-f lavfi -i sine=d=1 -c:a aac -y o.m4a",
)  # fmt: skip

BIG: tuple[Filtered, ...] = (
    Filtered("python3", "python3", (("python3", "-c", PYTHON),)),
    Filtered(
        "ffmpeg", "ffmpeg", words_of("ffmpeg", *(f"-v error -nostdin {line}" for line in FFMPEG))
    ),
    Filtered(
        "gcc", "gcc", words_of("gcc", "-O2 -g one.c -o one", "-S one.c", "-print-search-dirs")
    ),
    Filtered(
        "gdb",
        "gdb",
        (
            (
                "gdb",
                "-nx",
                "-q",
                "-batch",
                "-ex",
                "python print(6 * 7)",
                "-ex",
                "print 1 + 1",
                "-ex",
                "info line main",
                "/usr/bin/true",
            ),
        ),
    ),
    Filtered(
        "curl",
        "curl",
        words_of(
            "curl",
            "-s file:///etc/hostname",
            "-s http://127.0.0.1:1/",
            "-s https://127.0.0.1:1/",
            "-s telnet://nothing.invalid",
        ),
    ),
    Filtered(
        "ssh-keygen",
        "openssh-client",
        words_of("ssh-keygen", "-q -t ed25519 -N x -f key", "-lf /no"),
    ),
    Filtered(
        "gpg",
        "gpg",
        words_of(
            "gpg",
            "--homedir . --no-autostart --batch --list-keys",
            "--homedir . --no-autostart --print-md sha256 file",
        ),
    ),
    Filtered("vim", "vim", (("vim", "-Nues", "+%s/e/E/g", "+w out", "+qa!", "file"),)),
    Filtered("node", "nodejs", (("node", "-e", NODE),)),
    Filtered("ruby", "ruby", (("ruby", "-e", RUBY),)),
    Filtered("php", "php-cli", (("php", "-r", PHP),)),
    Filtered(
        "tclsh",
        "tcl",
        (("tclsh",),),
        b"puts [clock format 0 -gmt 1]\nputs [exec echo hi]\nafter 10\n",
    ),
    Filtered("lua5.4", "lua5.4", (("lua5.4", "-e", LUA),)),
    Filtered(
        "rsync",
        "rsync",
        words_of("rsync", "-a --exclude=dst ./ dst/", "-n -i -a --exclude=dst ./ dst/"),
    ),
    Filtered("xmllint", "libxml2-utils", (("xmllint", "--format", "-"),), b"<a><b c='1'/></a>"),
    Filtered("jq", "jq", (("jq", "-S", "."),), b'{"b": [1, 2], "a": null}'),
    Filtered("bc", "bc", (("bc", "-l"),), b"scale=20; a(1)*4\n2^200\n"),
    Filtered("clang", "clang", words_of("clang", "-O1 -c one.c", "-S one.c -o -")),
    Filtered("gnuplot", "gnuplot-nox", (("gnuplot", "-e", "set term dumb; plot sin(x)"),)),
    Filtered("dot", "graphviz", (("dot", "-Tsvg"),), b"digraph { a -> b }"),
    Filtered(
        "convert",
        "imagemagick",
        words_of("convert-im6.q16", "-size 16x16 xc:red o.png", "o.png -resize 8x8 t.txt"),
    ),
    Filtered("emacs", "emacs-nox", (("emacs", "-Q", "--batch", "--eval", EMACS),)),
    Filtered(
        "dpkg", "dpkg", words_of("dpkg", "-l dpkg", "-S /bin/ls", "--compare-versions 1 lt 2")
    ),
    Filtered("apt-cache", "apt", words_of("apt-cache", "policy dpkg", "pkgnames zl")),
    Filtered(
        "busybox", "busybox", (("busybox", "sh", "-c", "ls /; echo x | sed s/x/y/; date -u -d@0"),)
    ),
    Filtered("ocaml", "ocaml", (("ocaml", "-stdin"),), b"print_int (6 * 7);; Unix.getpid;;"),
    Filtered(
        "valgrind", "valgrind", words_of("valgrind", "-q true"), starts=("true",), is_traced=False
    ),
    Filtered("numpy", "python3", ((sys.executable, "-c", NUMPY),)),
)
"""Programs with many libraries or plug-ins."""
