#!/usr/bin/env python3
"""Checks licences, sources and version requirements of all dependencies against deny.toml, in a second.

cargo-deny does the same and more (`make deny`), but takes minutes to build.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def tokens(expression):
    # Older manifests write "MIT/Apache-2.0" for OR.
    return re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))


def allows(expression, allowed):
    """Whether an SPDX expression can be satisfied with the licences that are allowed."""
    rest = tokens(expression)

    def any_of():
        found = all_of()
        while rest[:1] == ["OR"]:
            rest.pop(0)
            found = all_of() or found
        return found

    def all_of():
        found = single()
        while rest[:1] == ["AND"]:
            rest.pop(0)
            found = single() and found
        return found

    def single():
        if not rest:
            raise ValueError(f"a licence is missing in {expression!r}")
        name = rest.pop(0)
        if name == "(":
            found = any_of()
            if rest[:1] != [")"]:
                raise ValueError(f"a bracket is not closed in {expression!r}")
            rest.pop(0)
            return found
        if rest[:1] == ["WITH"]:
            rest.pop(0)
            name = f"{name} WITH {rest.pop(0)}"
        return name in allowed

    found = any_of()
    if rest:
        raise ValueError(f"expected OR or AND in {expression!r}, found {rest[0]!r}")
    return found


def mistakes(metadata, deny):
    allowed = set(deny["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in deny["licenses"].get("exceptions", [])}
    members = set(metadata["workspace_members"])
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["id"] in members:
            for dependency in package["dependencies"]:
                if dependency["req"] == "*" and not dependency.get("path"):
                    yield f"{name}: expected a version for {dependency['name']}, found *"
            continue
        if package["source"] != CRATES_IO:
            yield f"{name}: expected a crate of crates.io, found {package['source']}"
        licence = package["license"]
        if not licence:
            yield f"{name}: expected a licence, found none"
            continue
        try:
            fine = allows(licence, allowed | exceptions.get(package["name"], set()))
        except ValueError as error:
            yield f"{name}: {error}"
            continue
        if not fine:
            yield f"{name}: expected one of the licences that deny.toml allows, found {licence}"


def self_check():
    """The rules, on expressions whose answer is known."""
    allowed = {"MIT", "ISC", "Apache-2.0 WITH LLVM-exception"}
    for expression, expected in {
        "MIT": True,
        "GPL-3.0": False,
        "GPL-3.0 OR MIT": True,
        "GPL-3.0 AND MIT": False,
        "MIT/Apache-2.0": True,
        "ISC AND (GPL-2.0 OR MIT)": True,
        "ISC AND (GPL-2.0 OR BSD-2-Clause)": False,
        "MIT OR GPL-2.0 AND GPL-3.0": True,
        "Apache-2.0 WITH LLVM-exception": True,
        "Apache-2.0": False,
    }.items():
        if allows(expression, allowed) is not expected:
            sys.exit(f"check-licenses.py is wrong about {expression!r}")


def main():
    self_check()
    deny = tomllib.loads((ROOT / "deny.toml").read_text())
    command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    found = list(mistakes(metadata, deny))
    for mistake in found:
        print(mistake, file=sys.stderr)
    if found:
        sys.exit(1)
    print(f"licences, sources and versions of {len(metadata['packages'])} crates are as deny.toml wants them")


if __name__ == "__main__":
    main()
