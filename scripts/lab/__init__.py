# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The vmcore lab: real kernels, booted, made busy, paused, dumped and asked.

``scripts/vmlab`` is the command. The tables to extend are :mod:`lab.kernels` and
:mod:`lab.guests`: a row says only what is not as in its family.

- a kernel on disk: ``library``, from ``stock`` or ``build`` (with ``configs/``,
  ``edits`` and ``rfc``), out of the archive that ``debian`` reads;
- a guest: ``guest/`` is its only program, ``initramfs`` carries it, ``qemu`` is the
  machine, ``boot`` brings all of them up;
- a dump: ``dumps``, with the kernel's own numbers (``oracle``) and words
  (``askpages``, through ``gdbstub``); ``elfcore`` and ``kdump`` are its formats;
- an answer: ``comparison`` of dumps and of guests that are there (``live``), page by
  page in ``pagebits`` and ``pagewords``; ``recipes`` of damage;
- many of them: ``matrix``, printed by ``report``.
"""
