"""Checks what the project links: licences, sources, and crates that are there twice.

The rules of the project: every dependency comes from crates.io, is licensed under one of the licences
below, and no crate is there in two versions unless it is named here with the reason.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict

LICENCES = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
}

# Two versions of one crate, and who needs the older one.
TWICE = {
    "base64": "lambda_runtime, and boon, which only a test of the schema links, need 0.22, object_store has 0.23",
    "crypto-common": "comes with digest",
    "digest": "crc-fast, the checksums of object_store, still needs 0.10, sha2 has 0.11",
    "getrandom": "ring still needs 0.2, and boon, which only a test of the schema links, 0.3",
    "hashbrown": "safetensors still needs 0.16, rusqlite has 0.17",
    "http": "a test tool of the AWS clients (aws-smithy-protocol-test) still needs 0.2, the clients have 1",
    "itertools": "prost-derive still needs 0.14, object_store has 0.15",
    "libloading": "nvml-wrapper still needs 0.8, cudarc has 0.9",
    "miniz_oxide": "png still needs 0.8, flate2 has 0.9",
    "rand": "opentelemetry_sdk still needs 0.9, object_store has 0.10",
    "rand_core": "comes with rand",
    "syn": "macros of tracing and pin-project still need 2, those of serde and clap have 3 (build time only)",
    "thiserror": "nvml-wrapper still needs 1, everything else has 2",
    "thiserror-impl": "comes with thiserror",
}


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with the licences above (`A/B` is the old way to say OR)."""
    expression = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ")
    # AND binds tighter than OR; parentheses hold ORs in every licence seen so far.
    def term(text: str) -> bool:
        return any(part.strip() in LICENCES for part in re.split(r"\bOR\b", text))
    if " AND " in expression:
        return all(term(part.replace("(", "").replace(")", "")) for part in re.split(r"\bAND\b", expression))
    return term(expression.replace("(", "").replace(")", ""))


def main() -> int:
    """Prints every mistake; returns 1 if there is one."""
    run = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    mistakes, versions = [], defaultdict(set)
    for node in metadata["resolve"]["nodes"]:
        package = packages[node["id"]]
        name, version, source = package["name"], package["version"], package["source"]
        if source is None:
            continue
        if not source.startswith("registry+"):
            mistakes.append(f"{name} {version} comes from {source.split('+')[0]}, not from the registry")
        if not allowed(package["license"] or ""):
            mistakes.append(f"{name} {version} has the licence {package['license']!r}, which is not on the list")
        versions[name].add(version)
    for name, found in sorted(versions.items()):
        if len(found) > 1 and name not in TWICE:
            mistakes.append(f"{name} is there in {len(found)} versions: {', '.join(sorted(found))}")
    for name in sorted(set(TWICE) - {name for name, found in versions.items() if len(found) > 1}):
        mistakes.append(f"{name} is listed as being there twice and is not: remove it from the list")
    for mistake in mistakes:
        print(f"dependencies: {mistake}")
    print(f"dependencies: {len(versions)} crates, {len(mistakes)} mistakes")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
