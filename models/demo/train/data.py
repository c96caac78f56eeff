"""Collect source code and documentation of permissively licensed Python packages.

Reads what is installed beside this interpreter: the packages of ALLOWED whose own metadata name nothing but a
permissive licence, and the standard library. Writes DIR/docs.jsonl.N (text, kind, split) and DIR/sources.json (packages,
versions, licences, sizes).
"""

import collections
import hashlib
import importlib.metadata as metadata
import json
import multiprocessing
import os
import re
import sys
import sysconfig

ALLOWED = """
absl-py accelerate aiofiles aiohappyeyeballs aiohttp aiosignal anyio attrs botorch build charset-normalizer chex click
cloudpickle coverage cupy-cuda13x cycler cython diffrax e3nn einops equinox etils execnet filelock flatbuffers flax fonttools
formulaic frozenlist fsspec gpytorch grpcio h11 h5py httpcore httpx huggingface-hub humanize idna imageio
importlib-metadata jax jaxlib jaxtyping jinja2 joblib kiwisolver lazy-loader lightning lightning-utilities linear-operator
lineax llvmlite lxml markdown markdown-it-py markupsafe matplotlib meson ml-dtypes mpi4py mpmath msgpack multidict
multipledispatch nanobind narwhals networkx numba numba-cuda numpy numpyro onnx onnx-ir onnxruntime
onnxscript optax opt-einsum optimistix orbax-checkpoint packaging pandas patsy peft pip platformdirs pluggy
portalocker prometheus-client propcache protobuf psutil pyarrow pybind11 pydantic pygments pyparsing pyproject-hooks pytest
pytest-benchmark pytest-cov pytest-mock pytest-timeout pytest-xdist python-dateutil pyyaml regex requests rich
sacrebleu safetensors scikit-build-core scikit-image scikit-learn scipy seaborn sentencepiece sentence-transformers setuptools
shellingham simplejson six sortedcontainers statsmodels sympy tabulate tensorboard tensorstore threadpoolctl tifffile
tiktoken timm tokenizers toolz torch torchaudio torchdiffeq torch-geometric torchmetrics torchvision transformers treescope
triton typer typing-extensions typing-inspect urllib3 uvloop wadler-lindig werkzeug wheel wrapt xarray xxhash yarl zipp
""".split()

PERMISSIVE = re.compile(r"^(MIT|BSD|0BSD|ISC|PSF|Python-2\.0|Python Software Foundation|Apache)", re.I)
OTHER = re.compile(r"GPL|MPL|Mozilla|EPL|CDDL|Proprietary|LicenseRef|NVIDIA", re.I)
SKIP_DIR = re.compile(
    r"(^|/)(_?vendor(ed)?|externals?|extern|third_?party|thirdparty|tests?|testing|__pycache__|encodings|lib2to3|"
    r"pydoc_data|idle_test|turtledemo|locale|_static|static|templates|datasets?/data|nvidia|licenses?|examples?_data)(/|$)")
SKIP_FILE = re.compile(r"(^|/)(test_[^/]*|[^/]*_test\.py|[^/]*_pb2(_grpc)?\.py|LICENSE[^/]*|COPYING[^/]*|NOTICE[^/]*|"
                       r"AUTHORS[^/]*|top_level\.txt|entry_points\.txt|requirements[^/]*\.txt|CMakeLists\.txt|conftest\.py)$", re.I)
GENERATED = re.compile(r"@?generated (by|from|file)|auto-?matically generated|auto-?generated|DO NOT EDIT|do not edit|"
                       r"General Public License|NVIDIA Proprietary|LicenseRef-", re.I)
CODE, PROSE = (".py", ".c", ".h", ".cu", ".cuh", ".cpp"), (".md", ".rst", ".txt")
HELD_OUT = {"code": 2, "prose": 10}  # percent, by the hash of the file


def licence(dist):
    """The licence as the package states it, or None if any part of it is not on the list."""
    m = dist.metadata
    if m.get("License-Expression"):
        parts = re.split(r"\s+(?:AND|OR)\s+|[()]", m["License-Expression"])
    else:
        parts = [c.split("::")[-1] for c in m.get_all("Classifier") or [] if c.startswith("License ::")]
        parts = [p for p in parts if p.strip() != "OSI Approved"]
        short = (m.get("License") or "").strip()
        if not parts and short and len(short) < 60:
            parts = re.split(r"\s+(?:and|or|AND|OR|&)\s+|/", short)
    parts = [p.replace("The ", "").strip() for p in parts if p.strip()]
    if not parts or any(OTHER.search(p) or not PERMISSIVE.match(p) for p in parts):
        return None
    return " AND ".join(dict.fromkeys(parts))


def sources():
    """Yield (package, version, licence, path, relative path)."""
    seen, refused = set(), []
    for dist in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", dist.metadata["Name"] or "").lower()
        if name not in ALLOWED or name in seen:
            continue
        seen.add(name)
        text = licence(dist)
        if text is None:
            refused.append(name)
            continue
        for f in dist.files or []:
            yield name, dist.version, text, str(dist.locate_file(f)), str(f)
    base, version = sysconfig.get_paths()["stdlib"], "%d.%d.%d" % sys.version_info[:3]
    for folder, dirs, files in os.walk(base):
        dirs[:] = [d for d in dirs if d not in ("site-packages", "dist-packages")]
        for f in files:
            path = os.path.join(folder, f)
            yield "python-stdlib", version, "PSF-2.0", path, os.path.relpath(path, base)
    print("left out for their licence:", " ".join(refused))


def strip_licence(text):
    """Drop the comment that opens a file when it is about rights."""
    m = re.match(r"(?:\s*#[^\n]*\n)+|\s*/\*.*?\*/\s*|(?:\s*//[^\n]*\n)+", text, re.S)
    if m and re.search(r"copyright|licen[sc]e|SPDX|coding[:=]|#!", m.group(), re.I):
        text = text[m.end():]
    return text.lstrip("\n")


def read(item):
    """The cleaned text of a file, or None."""
    package, path, relative = item
    kind = "prose" if relative.endswith(PROSE + ("METADATA",)) else "code"
    try:
        size = os.path.getsize(path)
        if not 400 <= size <= 150_000:
            return None
        with open(path, encoding="utf-8", newline=None) as f:
            text = f.read()
    except (OSError, UnicodeDecodeError):
        return None
    if GENERATED.search(text[:3000]) or "\0" in text:
        return None
    if relative.endswith("METADATA"):
        text = text.partition("\n\n")[2]
    text = "\n".join(line.rstrip() for line in strip_licence(text).expandtabs(4).split("\n")).strip("\n") + "\n"
    text = re.sub(r"\n{4,}", "\n\n\n", text)
    lines = text.split("\n")
    if len(text) < 400 or max(map(len, lines)) > 600 or len(text) / len(lines) > (400 if kind == "prose" else 70):
        return None
    letters, digits = sum(map(str.isalpha, text)), sum(map(str.isdigit, text))
    if letters < 0.35 * len(text) or digits > 0.10 * len(text) or sum(c > "\x7f" for c in text) > 0.05 * len(text):
        return None
    prints = {hash(s) for s in map(str.strip, lines) if len(s) > 20}
    return package, kind, relative, text, hashlib.sha256(text.encode()).hexdigest(), prints


def main(out, processes, limit=None):
    os.makedirs(out, exist_ok=True)
    items, licences = [], {}
    for package, version, text, path, relative in sources():
        relative = relative.replace(os.sep, "/")
        if not relative.endswith(CODE + PROSE + ("dist-info/METADATA",)) or SKIP_DIR.search(relative) or SKIP_FILE.search(relative):
            continue
        if relative.endswith(".txt") and ".dist-info" in relative:
            continue
        if relative.endswith(CODE[1:]) and re.search(r"ATen/ops/|/cuda/include|cuda_runtime|/cutlass/", relative):
            continue
        licences[package] = (version, text)
        items.append((package, path, relative))
    if limit:
        items = items[:: max(1, len(items) // limit)]
    with multiprocessing.Pool(processes) as pool:
        docs = [d for d in pool.imap_unordered(read, items, 64) if d]
    docs.sort(key=lambda d: (d[4], d[0], d[2]))  # by hash: a fixed order that mixes the packages
    lines_seen, hashes, kept = set(), set(), []
    for package, kind, relative, text, digest, prints in docs:
        if digest in hashes or (prints and len(prints & lines_seen) > 0.5 * len(prints)):
            continue
        hashes.add(digest)
        lines_seen |= prints
        held = int(digest[:8], 16) % 100 < HELD_OUT[kind]
        kept.append((package, {"kind": kind, "held_out": held, "path": f"{package}/{relative}", "text": text}))
    stats = collections.defaultdict(lambda: [0, 0])
    totals = collections.Counter()
    with open(f"{out}/docs.jsonl", "w") as f:
        for package, doc in kept:
            f.write(json.dumps(doc) + "\n")
            stats[package][0] += 1
            stats[package][1] += len(doc["text"])
            split = "held-out" if doc["held_out"] else "train"
            totals[f"{split} {doc['kind']} files"] += 1
            totals[f"{split} {doc['kind']} characters"] += len(doc["text"])
    packages = [{"name": p, "version": licences[p][0], "licence": licences[p][1], "files": n, "characters": c}
                for p, (n, c) in sorted(stats.items())]
    with open(f"{out}/sources.json", "w") as f:
        json.dump({"packages": packages, "totals": totals}, f, indent=1)
    print(len(items), "files read,", len(kept), "kept;", dict(totals))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
