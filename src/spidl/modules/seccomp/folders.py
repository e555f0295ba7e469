"""Where objects that make names of libraries at run time have what they open.

Folders as programs find them without being told others: by distributors' paths and by the place of
the object.  What a user names by another path (`enable -f` of bash, a variable of the environment)
is foreseen only if a setting says so.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

ANYTHING = "*"
"""Beside folders: it opens from there, and whatever a script or a caller names."""

PASS_ON: Mapping[str, Sequence[str]] = {
    "libgmodule-2.0.so.0": ("g_module_open", "g_module_open_full"),
    "libltdl.so.7": ("lt_dlopen", "lt_dlopenadvise", "lt_dlopenext"),
    "libkrb5support.so.0": ("krb5int_open_plugin", "krb5int_open_plugin_dirs"),
    "libxml2.so.2": ("xmlModuleOpen",),
    "libsqlite3.so.0": ("sqlite3_enable_load_extension", "sqlite3_load_extension"),
    "libuv.so.1": ("uv_dlopen",),
    "libnssutil3.so": ("PORT_LoadLibraryFromOrigin",),
    "libnspr4.so": ("PR_LoadLibrary", "PR_LoadLibraryWithFlags"),
    "libapr-1.so.0": ("apr_dso_load",),
    "libSDL2-2.0.so.0": ("SDL_LoadObject",),
    "libsystemd-shared-252.so": ("dlopen_many_sym_or_warn_sentinel",),
}
"""Libraries (by soname) that open what they are told, and the functions through which: their
callers count instead.  What their own strings name joins all the same."""

_TABLE = """
    # interpreters; most also call any function for a script, which is their modules' doing
    perl*                    $LIB/perl/5.* $LIB/perl5/5.* $LIB/perl-base /usr/local/lib/x86_64-linux-gnu/perl/5.*
    libperl.so.5.*           $LIB/perl/5.* $LIB/perl5/5.* $LIB/perl-base /usr/local/lib/x86_64-linux-gnu/perl/5.*
    python3*                 /usr/lib/python3.*/lib-dynload
    libpython3*.so*          /usr/lib/python3.*/lib-dynload
    libruby*                 $LIB/ruby $LIB/rubygems-integration /usr/lib/ruby /var/lib/gems
    libtcl8*.so*             $LIB/tcltk /usr/lib/tcltk /usr/lib/tcl8.* $LIB/tk8.* $LIB/tcl8.* $LIB/libtk8.*.so*
    php*                     /usr/lib/php/2*
    lua5* liblua5*           $LIB/lua /usr/lib/lua /usr/local/lib/lua
    bash                     /usr/lib/bash
    zsh*                     $LIB/zsh
    gawk                     $LIB/gawk
    libR.so                  /usr/lib/R /usr/local/lib/R/site-library *
    liboctinterp*            $LIB/octave $LIB/octave/packages *
    libguile-*               $LIB/guile /usr/lib/guile *
    libjli.so                $ORIGIN
    libjvm.so                $ORIGIN/.. *
    libmonosgen* mono*       /usr/lib/libmono-*.so* /usr/lib/libMono*.so /usr/lib/mono *
    beam.smp                 /usr/lib/erlang/lib *
    swipl libswipl*          /usr/lib/swi-prolog/lib *
    ocamlrun*                /usr/lib/ocaml/stublibs *

    # cryptography and identity
    libcrypto.so.3           $LIB/ossl-modules $LIB/engines-3
    libcrypto.so.1.1         $LIB/engines-1.1
    libpam.so.0              $LIB/security /lib/x86_64-linux-gnu/security
    libsasl2.so.2            $LIB/sasl2 /usr/lib/sasl2
    libkrb5.so.3             $LIB/krb5/plugins
    libkdb5.so.*             $LIB/krb5/plugins
    libgssapi_krb5.so.2      $LIB/gss @/etc/gss/mech @/etc/gss/mech.d/*.conf
    libgnutls.so.30          $LIB/pkcs11
    libp11-kit.so.0          $LIB/pkcs11 @/usr/share/p11-kit/modules/* @/etc/pkcs11/modules/*
    libnss3.so               $LIB/nss $ORIGIN/libnss*.so $ORIGIN/libsoftokn3.so $LIB/pkcs11
    libsoftokn3.so           $LIB/nss $ORIGIN/libfreebl*.so $ORIGIN/libnssdbm3.so
    libfreebl3.so libnssdbm3.so libnsspem.so  $ORIGIN/libfreebl*.so $ORIGIN/libsoftokn3.so
    libxmlsec1.so.1          $LIB/libxmlsec1-*.so*
    libcryptsetup.so.12      $LIB/cryptsetup
    libsystemd-shared-*      $LIB/libtss2-tcti-*.so*
    ssh ssh-add ssh-keygen   $LIB/pkcs11 $LIB/opensc-pkcs11.so $LIB/libsk-libfido2.so*
    libldb.so.*              $LIB/ldb $LIB/samba
    useradd userdel usermod newusers new?idmap libsubid.so.*  $LIB/libsubid_*.so*
    libverto.so.1            $LIB/libverto-*.so*
    sudo                     /usr/libexec/sudo /usr/lib/sudo

    # desktops
    libX11.so.6              $LIB/libXcursor.so.1 $LIB/X11/locale
    libgio-2.0.so.0          $LIB/gio/modules
    libgdk_pixbuf-2.0.so.0   $LIB/gdk-pixbuf-2.0
    libgtk-x11-2.0.so.0      $LIB/gtk-2.0
    libgtk-3.so.0            $LIB/gtk-3.0
    libgtk-4.so.1            $LIB/gtk-4.0
    libQt5*                  $LIB/qt5/plugins $LIB/qt5/qml
    libQt6*                  $LIB/qt6/plugins $LIB/qt6/qml
    libwx_*                  $LIB/wx
    libenchant-2.so.2        $LIB/enchant-2
    libaspell.so.15          $LIB/aspell /usr/lib/aspell
    libcanberra.so.0         $LIB/libcanberra-*
    libdecor-0.so.0          $LIB/libdecor
    libcaca.so.0             $LIB/caca
    libslang.so.2            $LIB/slang
    libuno_sal.so.3          $ORIGIN *
    libxul.so                $ORIGIN *
    firefox* thunderbird*    $ORIGIN
    chromium*                $ORIGIN

    # pictures, sound, three dimensions
    libGLX.so.0              $LIB/libGLX_*.so*
    libEGL.so.1              $LIB/libEGL_*.so* @/usr/share/glvnd/egl_vendor.d/*
    libGLX_mesa.so.0         $LIB/dri
    libEGL_mesa.so.0         $LIB/dri
    libgbm.so.1              $LIB/dri $LIB/gbm
    libva*.so.2              $LIB/dri
    libvdpau.so.1            $LIB/vdpau
    libvulkan.so.1           @/usr/share/vulkan/*.d/* @/etc/vulkan/*.d/*
    libOpenCL.so.1           @/etc/OpenCL/vendors/*
    libmfx*                  $LIB/mfx $LIB/libmfx*.so*
    libgallium*              $LIB/dri $LIB/gallium-pipe
    iHD_drv_video.so         -
    libLLVM-*.so.1           -
    libgomp.so.1             $LIB/libgomp-plugin-*.so*
    libMagickCore*           $LIB/ImageMagick-*
    libGraphicsMagick*       /usr/lib/GraphicsMagick-* $LIB/GraphicsMagick-*
    libgvc.so.6              $LIB/graphviz
    libgegl-0.4.so.0         $LIB/gegl-0.4
    libbabl-0.1.so.0         $LIB/babl-0.1
    libgstreamer-1.0.so.0    $LIB/gstreamer-1.0 $LIB/gstreamer1.0
    libvlccore.so.9          $LIB/vlc
    libavcodec.so.*          $LIB/libcuda.so* $LIB/libnvcuvid.so*
    libavfilter.so.*         $LIB/frei0r-1 /usr/lib/frei0r-1 /usr/lib/ladspa $LIB/ladspa
    liblilv-0.so.0           /usr/lib/lv2 $LIB/lv2
    libbluray.so.2           $LIB/libaacs.so* $LIB/libbdplus.so* $LIB/libmmbd.so*
    libasound.so.2           $LIB/alsa-lib
    libpulse*                $LIB/pulseaudio $LIB/pulse-*
    libpipewire-0.3.so.0     $LIB/pipewire-0.3 $LIB/spa-0.2
    libgphoto2.so.6          $LIB/libgphoto2
    libgphoto2_port.so.12    $LIB/libgphoto2_port
    libproxy.so.1            $LIB/libproxy
    libavahi-client.so.3     -
    libsane.so.1             $LIB/sane
    libgdal.so.*             $LIB/gdalplugins
    libogdi.so.*             /usr/lib/ogdi $LIB/ogdi

    # servers, networks, machines
    apache2                  /usr/lib/apache2/modules
    libaprutil-1.so.0        $LIB/apr-util-1
    nginx                    /usr/lib/nginx/modules
    postgres                 $ORIGIN/../lib *
    mysqld mariadbd          /usr/lib/mysql/plugin
    libmariadb.so.3          $LIB/libmariadb3/plugin $LIB/libmariadb3
    slapd                    /usr/lib/ldap
    libdovecot.so.0          /usr/lib/dovecot
    varnishd                 $LIB/varnish
    libsamba-modules*        $LIB/samba
    libxtables.so.12         $LIB/xtables
    tc ip                    $LIB/tc /usr/lib/tc /usr/lib/iproute2
    libibverbs.so.1          $LIB/libibverbs
    libopen-pal.so.40        $LIB/openmpi
    libfabric.so.1           $LIB/libfabric
    libpmix.so.2             $LIB/pmix2
    libuc[mpst].so.0         $LIB/ucx
    libhwloc.so.15           $LIB/hwloc
    qemu-*                   $LIB/qemu
    Xorg Xvfb Xephyr Xnest   /usr/lib/xorg/modules $LIB/dri
    weston libweston-10.so.0 $LIB/libweston-10 $LIB/weston
    packagekitd              $LIB/packagekit-backend
    gdb                      $LIB/libthread_db.so.1 $LIB/gdb $LIB/libcc1.so*
    libbfd-*                 $LIB/bfd-plugins /usr/lib/bfd-plugins
    *-ld *-ld.bfd *-ld.gold  /usr/libexec/gcc/*/*/liblto_plugin.so /usr/lib/gcc/*/*/liblto_plugin.so
    perf                     /usr/lib/traceevent $LIB/traceevent
    libtraceevent.so.1       $LIB/traceevent /usr/lib/traceevent
    sqlite3                  $LIB/libsqlite3_mod_*.so* $LIB/mod_spatialite*.so*
    make                     -
    libicuuc.so.*            -
    libss.so.2               -
"""  # noqa: E501 - one object a line
"""By the names of objects that open them (`fnmatch`): folders, as `files_in` takes them, or ``@``
and text files that name libraries; ``-`` for what opens none but from a variable."""


def _read(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] != "#":
            names = [word for word in words if not _is_place(word)]
            for name in names:
                found[name] = tuple(word for word in words if _is_place(word) and word != "-")
    return found


def _is_place(word: str) -> bool:
    return word in (ANYTHING, "-") or word[0] in "$/@"


DEFAULTS: Mapping[str, Sequence[str]] = _read(_TABLE)


@dataclass(frozen=True, slots=True)
class Places:
    """Where an object finds what it opens."""

    folders: tuple[str, ...]
    """As `files_in` takes them."""
    lists: tuple[str, ...]
    """Patterns of text files that name libraries."""
    is_all: bool
    """Whether it opens nothing else."""


def places_of(
    name: str, path: str, declared: Mapping[str, Sequence[str]], libraries: str
) -> Places:
    """What is known about an object; what a setting declares of it is all that it opens.

    ``libraries`` is the folder of the libc, ``$LIB`` in a table; ``$ORIGIN`` is the object's own,
    if that is another.
    """
    ours, theirs = (list(_matching(name, table)) for table in (declared, DEFAULTS))
    origin = os.path.dirname(path)
    words = [
        word.replace("$LIB", libraries).replace("$ORIGIN", origin)
        for known in (*ours, *theirs)
        for word in known
        if not (word == "$ORIGIN" and origin == libraries)  # which has all of the system's
    ]
    decides = ours or theirs
    return Places(
        tuple(word for word in words if word[0] not in "@*"),
        tuple(word[1:] for word in words if word[0] == "@"),
        bool(decides) and not any(ANYTHING in known for known in decides),
    )


def _matching(name: str, table: Mapping[str, Sequence[str]]) -> Iterator[Sequence[str]]:
    for pattern, words in table.items():
        if _fits(name, pattern):
            yield words


def passes_on(soname: str | None) -> bool:
    """Whether a library opens what its callers name."""
    return any(_fits(soname or "", pattern) for pattern in PASS_ON)


def _fits(name: str, pattern: str) -> bool:
    """`fnmatch`, without compiling what has no wildcard."""
    if "*" in pattern or "?" in pattern or "[" in pattern:
        # What comes before the first wildcard decides nearly always.
        return name.startswith(pattern.partition("*")[0].partition("?")[0].partition("[")[0]) and (
            fnmatch.fnmatchcase(name, pattern)
        )
    return name == pattern
