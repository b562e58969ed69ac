"""Looks into the objects of ``kernels/isa``: what they export, and which instructions they hold.

These files alone are compiled with instruction set flags. So each must keep everything to itself
but one symbol, its table: of an inline function that two objects share, the linker keeps either
copy, and may keep the one that an old CPU can not run. Usage: ``check_objects.py FOLDER``; prints
what is wrong and exits with 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: What an object may ask of others. memcpy and its kind are what the compiler itself puts in.
UNDEFINED = {"memcpy", "memset", "memmove", "memcmp", "fmaf", "_GLOBAL_OFFSET_TABLE_"}

#: Fused multiply-adds may stand in functions for fp32 and bf16 sums, where the promise is a bound.
#: Everywhere else (quantizers, epilogues, integer kernels) each step is rounded by itself.
MAY_FUSE = re.compile(r"windowed_f32|windowed_bf16|windowed_float|GatherF32|GatherBf16|csr", re.I)
FUSED = re.compile(r"^vfn?m(add|sub|addsub|subadd)\w*$")

BF16 = r"^v\w*bf16\w* "
VBMI2 = r"vpexpand[bw]|vpcompress[bw]|vpsh[lr]d[wdqv]+"


@dataclass(frozen=True)
class Rule:
    """What one object must and must not hold, as patterns over ``mnemonic operands``."""

    symbol: str
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


RULES = {
    "scalar": Rule("skd::kScalarTable", forbidden=(r"^v(?!err|erw|mcall)\w+", r"%[yz]mm")),
    "avx2": Rule(
        "skd::kAvx2Table",
        required=(r"^vpshufb .*%ymm",),
        forbidden=(r"%zmm", r"%k[0-7]", r"%[xy]mm(1[6-9]|2\d|3[01])", r"^vpdp\w+"),
    ),
    "avx512": Rule(
        "skd::kAvx512Table",
        required=(r"^vpshufb .*%zmm",),
        forbidden=(r"^vpdp\w+", r"^vperm[it]?2?b ", rf"^({VBMI2}) ", BF16),
    ),
    "avx512_vnni": Rule(
        "skd::kAvx512VnniTable",
        required=(r"^vpshufb .*%zmm", r"^vpdpbusd .*%zmm"),
        forbidden=(r"^vperm[it]?2?b ", rf"^({VBMI2}) ", BF16),
    ),
    # Ice Lake has to qualify: VNNI and VBMI, not VBMI2 and not BF16.
    "avx512_vbmi": Rule(
        "skd::kAvx512VbmiTable",
        required=(r"^vpermb .*%zmm", r"^vpdpbusd .*%zmm"),
        forbidden=(rf"^({VBMI2}) ", BF16),
    ),
    "avx512_bf16": Rule(
        "skd::kAvx512Bf16Kernels",
        required=(r"^vdpbf16ps .*%zmm",),
        forbidden=(rf"^({VBMI2}) ",),
    ),
}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wrong_symbols(listing: str, symbol: str) -> Iterator[str]:
    """Faults in the output of ``nm -C``: one global symbol, no weak ones, few undefined ones."""
    exported = []
    for line in listing.splitlines():
        kind, name = re.fullmatch(r"(?:[0-9a-f]+)?\s+(\S) (.+)", line).groups()  # type: ignore[union-attr]
        if kind in "wWvVu":
            yield f"weak symbol {name}"
        elif kind == "U":
            if name not in UNDEFINED:
                yield f"undefined symbol {name}"
        elif kind.isupper():
            exported.append(name)
    if exported != [symbol]:
        yield f"exports {exported}, expected [{symbol!r}]"


def instructions(disassembly: str) -> Iterator[tuple[str, str]]:
    """(function, instruction) of ``objdump -d -C --no-show-raw-insn``, without names of targets."""
    function = ""
    for line in disassembly.splitlines():
        if match := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            function = match[1]
        elif match := re.match(r"\s+[0-9a-f]+:\t(\S.*)", line):
            text = re.sub(r"\s*<.*>\s*$", "", match[1])
            yield function, re.sub(r"\s+", " ", text).strip() + " "


def wrong_instructions(found: Iterable[tuple[str, str]], rule: Rule) -> Iterator[str]:
    """Faults in the instructions of one object, each named once."""
    missing = {pattern: re.compile(pattern) for pattern in rule.required}
    forbidden = [re.compile(pattern) for pattern in rule.forbidden]
    seen: set[str] = set()
    for function, text in found:
        missing = {p: c for p, c in missing.items() if not c.search(text)}
        mnemonic = text.split(" ", 1)[0]
        if mnemonic in seen:
            continue
        if any(pattern.search(text) for pattern in forbidden):
            seen.add(mnemonic)
            yield f"forbidden instruction '{text.strip()}' in {function}"
        elif FUSED.match(mnemonic) and not MAY_FUSE.search(function):
            seen.add(mnemonic)
            yield f"contracted multiply-add '{text.strip()}' in {function}"
    for pattern in missing:
        yield f"no instruction matches {pattern!r}"


def check_object(path: Path, rule: Rule) -> list[str]:
    """What is wrong with one object file."""
    faults = list(wrong_symbols(_run("nm", "-C", str(path)), rule.symbol))
    if re.search(r"\.(init_array|ctors)\b", _run("objdump", "-h", str(path))):
        faults.append("has a static initializer, which would run before the CPU is known")
    listing = _run("objdump", "-d", "-C", "--no-show-raw-insn", str(path))
    faults += wrong_instructions(instructions(listing), rule)
    return faults


def check_folder(folder: Path) -> dict[str, list[str]]:
    """Faults by object name, for every instruction set; an object without a rule is a fault."""
    objects = {path.name.split(".")[0]: path for path in folder.glob("*.o")}
    faults = {name: ["no rule in check_objects.py"] for name in objects.keys() - RULES.keys()}
    for name, rule in RULES.items():
        missing = ["no such object"]
        faults[name] = check_object(objects[name], rule) if name in objects else missing
    return faults


def main(arguments: list[str]) -> int:
    """Checks the folder named on the command line."""
    faults = check_folder(Path(arguments[0]))
    for name, sentences in sorted(faults.items()):
        for sentence in sentences:
            print(f"{name}: {sentence}")
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
