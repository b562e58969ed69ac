"""The compiled kernels: one symbol an object, and the instructions that its name promises."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "csrc" / "kernels" / "isa" / "check_objects.py"
INSIDE = Path("CMakeFiles/skd_kernels.dir/csrc/kernels/isa")

pytestmark = [
    pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 alone"),
]


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_objects", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_objects"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _fresh(build: Path) -> bool:
    """True if `build` holds plain release objects that are newer than every source of theirs."""
    objects = list((build / INSIDE).glob("*.o"))
    cache = build / "CMakeCache.txt"
    if not objects or not cache.is_file():
        return False
    settings = cache.read_text()
    plain = "CMAKE_BUILD_TYPE:STRING=Release" in settings and "SKD_SANITIZE:STRING=\n" in settings
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "csrc" / "kernels").rglob("*.[cih]*")]
    newest = max(path.stat().st_mtime for path in sources)
    return plain and all(path.stat().st_mtime >= newest for path in objects)


@pytest.fixture(scope="module")
def objects() -> Path:
    """The folder of the kernel objects: of the build that installed us, or of one of their own."""
    _need("objdump", "nm")
    for cache in sorted((ROOT / "build").glob("*/CMakeCache.txt")):
        if _fresh(cache.parent):
            return cache.parent / INSIDE
    _need("cmake", "g++")
    build = ROOT / "build" / "objects"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DSKD_KERNELS_ONLY=ON"]
    configure += ["-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", str(build), "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return build / INSIDE


def test_objects_keep_to_themselves_and_to_their_instructions(
    checker: ModuleType, objects: Path
) -> None:
    faults = checker.check_folder(objects)
    assert len(faults) >= 6
    assert not any(faults.values()), faults


def test_every_isa_file_has_a_rule(checker: ModuleType) -> None:
    assert set(checker.RULES) == {path.stem for path in SCRIPT.parent.glob("*.cpp")}


@pytest.mark.parametrize(
    ("listing", "fault"),
    [
        ("0000 D skd::kTable\n0000 T skd::helper()", "exports"),
        ("0000 D skd::kTable\n0000 W std::swap(int&, int&)", "weak symbol std::swap"),
        ("0000 D skd::kTable\n                 U operator new(unsigned long)", "undefined symbol"),
        ("0000 D skd::kOther", "exports"),
    ],
)
def test_symbol_faults_are_found(checker: ModuleType, listing: str, fault: str) -> None:
    assert any(fault in found for found in checker.wrong_symbols(listing, "skd::kTable"))
    assert not list(checker.wrong_symbols("0 D skd::kTable\n U memcpy\n0 t x()", "skd::kTable"))


@pytest.mark.parametrize(
    ("isa", "function", "instruction", "fault"),
    [
        ("scalar", "epilogue", "vaddps %xmm0,%xmm1,%xmm2", "forbidden"),
        ("avx2", "linear_dense_s8", "vpaddd %zmm0,%zmm1,%zmm2", "forbidden"),
        ("avx2", "linear_dense_s8", "vpdpbusd %ymm0,%ymm1,%ymm2", "forbidden"),
        ("avx512", "linear_dense_s8", "vpdpbusd %zmm0,%zmm1,%zmm2", "forbidden"),
        ("avx512_vnni", "linear_windowed_s8", "vpermb %zmm0,%zmm1,%zmm2", "forbidden"),
        ("avx512_vbmi", "linear_windowed_s8", "vpexpandb %zmm0,%zmm1{%k1}", "forbidden"),
        ("avx512_vbmi", "linear_windowed_bf16", "vdpbf16ps %zmm0,%zmm1,%zmm2", "forbidden"),
        ("avx512_vbmi", "epilogue_fp32", "vfmadd213ps %zmm0,%zmm1,%zmm2", "contracted"),
        ("avx2", "quantize_dynamic_s8", "vfnmsub132ss %xmm0,%xmm1,%xmm2", "contracted"),
        ("avx512_vbmi", "linear_windowed_s8", "vpdpbusd %zmm0,%zmm1,%zmm2", "vpermb"),
    ],
)
def test_instruction_faults_are_found(
    checker: ModuleType, isa: str, function: str, instruction: str, fault: str
) -> None:
    listing = f"0000000000000000 <{function}>:\n   0:\t{instruction}\n"
    found = list(checker.wrong_instructions(checker.instructions(listing), checker.RULES[isa]))
    assert any(fault in sentence for sentence in found), found


def test_fused_sums_of_floats_are_allowed(checker: ModuleType) -> None:
    listing = "0000 <skd::linear_windowed_f32(X)>:\n   0:\tvfmadd213ps %ymm0,%ymm1,%ymm2\n"
    found = list(checker.wrong_instructions(checker.instructions(listing), checker.RULES["avx2"]))
    assert not any("contracted" in sentence for sentence in found)


def test_a_shared_inline_function_is_found(checker: ModuleType, tmp_path: Path) -> None:
    _need("g++", "nm", "objdump")
    source = tmp_path / "scalar.cpp"
    source.write_text(
        "inline int twice(int x) { return 2 * x; }\n"
        "int seed();\n"
        "static int early = seed();\n"
        "namespace skd { extern int (*const kScalarTable)(int); "
        "int (*const kScalarTable)(int) = twice; int use() { return early; } }\n"
    )
    subprocess.run(["g++", "-c", "-O1", str(source), "-o", str(tmp_path / "scalar.o")], check=True)
    faults = "; ".join(checker.check_object(tmp_path / "scalar.o", checker.RULES["scalar"]))
    assert "weak symbol twice(int)" in faults
    assert "static initializer" in faults
    assert "undefined symbol seed()" in faults
    assert "exports" in faults
