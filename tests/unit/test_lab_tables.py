# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's tables of kernels and guests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab import kernels
from lab.architectures import ARCHITECTURES, HERE
from lab.errors import LabError
from lab.guests import GUESTS, Guest, fitted, guests_for
from lab.kernels import KERNELS, Built, Kernel, Stock
from lab.matrix import ci_jobs, full_jobs
from lab.named import Named

CONFIGS = Path(kernels.__file__).with_name("configs")
FIELDS = {
    "KFENCE": "kfence",
    "NUMA": "numa",
    "SLUB_DEBUG": "slub_debug",
    "PAGE_OWNER": "page_owner",
}

every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda row: str(row.name))


@every_kernel
def test_name_says_where_a_kernel_comes_from(kernel: Kernel) -> None:
    first, version = kernel.name.split("-")[:2]
    if isinstance(kernel.origin, Stock):
        assert first == "debian"
        assert kernel.origin.image.startswith(re.escape(version))
    else:
        assert first == kernel.allocator.lower()
        assert kernel.origin.source.startswith(f"linux-source-{version}")
        assert re.fullmatch(kernel.origin.package, kernel.origin.source)


def test_guests_of_ci_suit_their_kernels() -> None:
    assert [job.name for job in ci_jobs() if not job.guest.suits(job.kernel)] == []


@every_kernel
def test_fields_are_what_the_config_fragments_say(kernel: Kernel) -> None:
    if not isinstance(kernel.origin, Built):
        return
    said = {}
    for name in kernel.origin.fragments:
        text = (CONFIGS / f"{name}.config").read_text()
        said.update(dict.fromkeys(re.findall(r"^CONFIG_(\w+)=y$", text, re.M), True))
        said.update(dict.fromkeys(re.findall(r"^# CONFIG_(\w+) is not", text, re.M), False))
    assert kernel.allocator == ("SLAB" if said.get("SLAB") else "SLUB")
    for option, field in FIELDS.items():
        if option in said and kernel.allocator == "SLUB":
            assert getattr(kernel, field) == said[option]
    assert kernel.page_owner == said.get("PAGE_OWNER", False)


@pytest.mark.parametrize(
    ("name", "package", "release"),
    [
        ("debian-5.10", "linux-image-5.10.0-39-cloud-amd64-dbg", "5.10.0-39-cloud-amd64"),
        ("debian-6.1-rt", "linux-image-6.1.0-50-rt-amd64-dbg", "6.1.0-50-rt-amd64"),
        ("debian-6.12", "linux-image-6.12.9+deb13-cloud-amd64-dbg", "6.12.9+deb13-cloud-amd64"),
        ("debian-6.17", "linux-image-6.17.8+deb13-cloud-amd64", "6.17.8+deb13-cloud-amd64"),
        ("debian-7", "linux-image-7.3.1+deb14-cloud-amd64-dbg", "7.3.1+deb14-cloud-amd64"),
    ],
)
def test_release_is_found_in_the_name_of_the_package(name: str, package: str, release: str) -> None:
    origin = KERNELS[name].origin
    matched = re.fullmatch(origin.package, package)
    assert matched is not None
    assert matched[1] == release


@pytest.mark.parametrize(
    ("name", "package", "release"),
    [
        ("debian-6.12-arm64", "6.12.9+deb13-cloud-arm64", True),
        ("debian-6.12-arm64", "6.12.9+deb13-arm64-16k", False),
        ("debian-6.12-arm64-16k", "6.12.9+deb13-arm64-16k", True),
        ("debian-6.12-s390x", "6.12.9+deb13-s390x", True),
        ("debian-7-s390x", "7.2.9+deb14-s390x", True),
        ("debian-6.12-riscv64", "6.12.9+deb13-riscv64", True),
        ("debian-6.12-ppc64el-64k", "6.12.9+deb13-powerpc64le-64k", True),
        ("debian-6.12-ppc64el-64k", "6.12.9+deb13-powerpc64le", False),
    ],
)
def test_packages_of_other_architectures(name: str, package: str, release: bool) -> None:
    pattern = KERNELS[name].origin.package
    assert bool(re.fullmatch(pattern, f"linux-image-{package}-dbg")) == release


def test_architectures_name_guests_that_there_are() -> None:
    for architecture in ARCHITECTURES.values():
        assert set(architecture.guests) <= set(GUESTS)
        assert bool(architecture.lines) == (architecture.name != HERE)


def test_guests_of_another_architecture_are_its_own() -> None:
    kernel = KERNELS["debian-6.12-s390x"]
    names = [guest.name for guest in guests_for(kernel)]
    assert "plain" in names
    assert not {"storm", "cx16", "numa", "crash"} & set(names)
    options = fitted(GUESTS["plain"], kernel).options
    assert "Nehalem,-cx16" not in options
    assert options[options.index("-cpu") + 1] == "max"


def test_jobs_of_names_are_in_the_order_of_the_tables() -> None:
    jobs = full_jobs(["debian-6.12", "slab-6.1"], ["kfence", "guard"])
    assert [job.name for job in jobs] == [
        "slab-6.1/kfence",
        "debian-6.12/kfence",
        "slab-6.1/guard",
    ]


def test_name_that_no_row_has_is_an_error_that_tells_those_there_are() -> None:
    with pytest.raises(LabError, match=r"^no kernel 'debian-4'; there are slab-6\.1-rfc3, "):
        full_jobs(["debian-4"])


def test_two_rows_of_one_name_are_no_table() -> None:
    with pytest.raises(ValueError, match="'plain'"):
        Named("guest", [Guest("plain", "one"), Guest("plain", "another")])
