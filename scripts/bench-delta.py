"""Measures change packages. Started by scripts/bench-delta, which says how."""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

# Package, old and new version.
PAIRS = [
    ("monaco-editor", "0.55.1", "0.56.0"),
    ("swagger-ui-dist", "5.30.0", "5.31.0"),
    ("pdfjs-dist", "5.4.394", "5.4.449"),
    ("mathjax", "3.2.1", "3.2.2"),
    ("bootstrap", "5.3.7", "5.3.8"),
    ("@fortawesome/fontawesome-free", "6.7.1", "6.7.2"),
    ("three", "0.170.0", "0.171.0"),
]
GENERATED = "generated"
# Bytes allowed beyond the reference for all that is no data, and for each changed file.
FIXED_BYTES = 512
FILE_BYTES = 8
FAST_BYTES_PER_SECOND = 200e6
MEMORY_MAX = 512 << 20


def cache():
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(caches, "pressrun-tests")
    os.makedirs(path, exist_ok=True)
    return path


def unpack(package, version, into):
    """Unpacks a release; it is fetched by npm when the cache does not have it."""
    name = f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    tarball = os.path.join(cache(), name)
    if not os.path.exists(tarball):
        with tempfile.TemporaryDirectory(dir=cache()) as place:
            command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", place]
            subprocess.run([*command, f"{package}@{version}"], check=True, stdout=subprocess.DEVNULL)
            os.rename(os.path.join(place, name), tarball)
    os.makedirs(into)
    subprocess.run(["tar", "-xzf", tarball, "-C", into, "--strip-components=1", "--no-same-owner"], check=True)


def generate(old, new):
    """25,000 small pages, of which a hundred change, and one directory that is renamed."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(4000)]
    for number in range(25_000):
        text = " ".join(chance.choices(words, k=200))
        renamed = number % 250 == 3
        changed = number % 250 == 5
        for tree, is_new in ((old, False), (new, True)):
            directory = os.path.join(tree, f"{'moved-' if renamed and is_new else ''}section-{number % 250}")
            os.makedirs(directory, exist_ok=True)
            page = text.replace(words[5], "corrected", 1) + " added" if changed and is_new else text
            with open(os.path.join(directory, f"page-{number}.html"), "w") as file:
                file.write(f"<html><body><p>{page}</p></body></html>\n")


def files(tree):
    found = {}
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, tree)] = hashlib.blake2b(file.read()).digest()
    return found


def run(command):
    """Runs a command: its seconds, those of its processors, and its peak memory in bytes."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output = process.stdout.read()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: {errors.decode()}")
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
        "output": output,
    }


def reference(level, old_tar, new_tar, out):
    ran = run(["zstd", "-q", "-f", f"-{level}", "--long=31", f"--patch-from={old_tar}", new_tar, "-o", out])
    return {"bytes": os.path.getsize(out), **{k: ran[k] for k in ("seconds", "cpu_seconds", "memory")}}


def measure(name, old, new, levels, binary, work):
    before, after = files(old), files(new)
    changed = sorted(path for path in after if before.get(path) != after[path])
    known = set(before.values())
    changed_bytes = sum(os.path.getsize(os.path.join(new, path)) for path in changed if after[path] not in known)
    old_tar, new_tar, list_file = (os.path.join(work, part) for part in ("old.tar", "new.tar", "list"))
    with open(list_file, "w") as file:
        file.write("".join(f"{path}\n" for path in changed))
    subprocess.run(["tar", "--sort=name", "-cf", old_tar, "-C", old, "."], check=True)
    subprocess.run(["tar", "-cf", new_tar, "-C", new, "-T", list_file], check=True)
    rows = []
    for level in levels:
        row = {"pair": name, "level": level, "files": len(changed), "changed_bytes": changed_bytes}
        file = os.path.join(work, "assignment")
        ran = run([binary, "assignment", "build", "--base", old, "--target", new, "--output", file, "--level", level, "--json"])
        row.update({k: ran[k] for k in ("seconds", "cpu_seconds", "memory")}, bytes=os.path.getsize(file))
        allowance = FILE_BYTES * len(changed) + FIXED_BYTES
        if level == "fast":
            row["bytes_per_cpu_second"] = changed_bytes / ran["cpu_seconds"]
            row["holds"] = {"rate": row["bytes_per_cpu_second"] >= FAST_BYTES_PER_SECOND}
        else:
            zstd = reference(19 if level == "small" else 12, old_tar, new_tar, os.path.join(work, "reference"))
            bound = int(zstd["bytes"] * (1.05 if level == "small" else 1)) + allowance
            row.update(reference=zstd, bytes_max=bound)
            row["holds"] = {"bytes": row["bytes"] <= bound, "time": row["seconds"] <= zstd["seconds"]}
        row["holds"]["memory"] = row["memory"] <= MEMORY_MAX
        # What was made is applied to a copy and compared: a figure for a wrong package is none.
        live = os.path.join(work, "live")
        subprocess.run(["cp", "-a", old, live], check=True)
        run([binary, "assignment", "apply", file, "--live", live, "--unsigned"])
        row["holds"]["result"] = files(live) == after
        shutil.rmtree(live)
        shutil.rmtree(os.path.join(work, ".live.pressrun"))
        rows.append(row)
    return rows


def words(row):
    zstd = row.get("reference")
    against = f"{row['bytes_max']:>9} {zstd['seconds']:>6.2f} s" if zstd else f"{row['bytes_per_cpu_second'] / 1e6:>6.0f} MB/s/core"
    missed = [what for what, holds in row["holds"].items() if not holds]
    verdict = "holds" if not missed else "missed: " + ", ".join(missed)
    memory = row["memory"] >> 20
    return (
        f"{row['pair']:<30} {row['level']:<8} {row['files']:>5} files {row['bytes']:>9} B {row['seconds']:>6.2f} s "
        f"{row['cpu_seconds']:>6.2f} s cpu {memory:>4} MiB | bound {against} | {verdict}"
    )


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-delta")
    parser.add_argument("--json", action="store_true", help="say everything as JSON")
    parser.add_argument("--pairs", help="only pairs whose name begins with one of these")
    parser.add_argument("--levels", default="small,balanced,fast")
    parser.add_argument("--binary", required=True)
    args = parser.parse_args()
    wanted = args.pairs.split(",") if args.pairs else [""]
    rows = []
    for package, before, after in [*PAIRS, (GENERATED, "", "")]:
        if not any(package.startswith(name) for name in wanted):
            continue
        with tempfile.TemporaryDirectory(prefix="bench-delta-") as work:
            old, new = os.path.join(work, "old"), os.path.join(work, "new")
            if package == GENERATED:
                generate(old, new)
            else:
                unpack(package, before, old)
                unpack(package, after, new)
            for row in measure(package, old, new, args.levels.split(","), args.binary, work):
                rows.append(row)
                if not args.json:
                    print(words(row), flush=True)
    if args.json:
        print(json.dumps(rows, indent=1))
    if not all(all(row["holds"].values()) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
