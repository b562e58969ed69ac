"""The door to the compiled engine: choice of the instruction set, staleness, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsekd import backend
from sparsekd._source_hash import source_hash
from sparsekd.spec import Fp32, Int8

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ("avx512_bf16", "avx512_vbmi", "avx512_vnni", "avx512", "avx2", "scalar")

INT8 = [backend.format_of(Int8(), kernel) for kernel in backend.KERNELS]


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="not a source tree")
def test_the_compiled_extension_is_not_stale() -> None:
    built, here = backend.info()["source_hash"], source_hash(ROOT)
    assert built == here, (
        "the compiled extension was built from other C++ sources than those in this tree: "
        "install again with 'pip install .' (or 'pip install -e .') and run the tests again"
    )


def test_source_hash_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "csrc/core").mkdir(parents=True)
    (tmp_path / "CMakeLists.txt").write_text("project(x)")
    source = tmp_path / "csrc/core/a.cpp"
    source.write_text("int a;")
    hashes = [source_hash(tmp_path)]
    assert source_hash(tmp_path) == hashes[0]
    source.write_text("int b;")
    hashes.append(source_hash(tmp_path))
    source.rename(tmp_path / "csrc/core/b.cpp")
    hashes.append(source_hash(tmp_path))
    (tmp_path / "csrc/core/c.inl").write_text("")
    hashes.append(source_hash(tmp_path))
    (tmp_path / "CMakeLists.txt").write_text("project(y)")
    hashes.append(source_hash(tmp_path))
    assert len(set(hashes)) == 5
    (tmp_path / "csrc/README.md").write_text("no source")
    assert source_hash(tmp_path) == hashes[-1]


def test_instruction_sets_come_best_first() -> None:
    known, available = backend.known_isas(), backend.available_isas()
    assert known == tuple(name for name in KNOWN if name in known)
    assert available == tuple(name for name in known if name in available)
    assert available[-1] == "scalar"
    if backend.info()["cpu_features"]:
        assert set(available) <= set(known)


def test_available_sets_follow_the_cpu() -> None:
    """Ice Lake qualifies for avx512_vbmi: it has VNNI and VBMI, but no BF16."""
    has = set(backend.info()["cpu_features"])
    available = backend.available_isas()
    avx2 = {"avx2", "fma", "f16c"} <= has
    avx512 = avx2 and {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= has
    vnni = avx512 and "avx512_vnni" in has
    assert ("avx2" in available) == avx2
    assert ("avx512" in available) == avx512
    assert ("avx512_vnni" in available) == vnni
    assert ("avx512_vbmi" in available) == (vnni and "avx512_vbmi" in has)


def test_cpu_features_are_those_of_the_kernel() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "flags" not in cpuinfo.read_text():
        pytest.skip("no /proc/cpuinfo with flags")
    line = next(text for text in cpuinfo.read_text().splitlines() if text.startswith("flags"))
    flags = set(line.split(":")[1].split())
    names = {"avx512_vbmi": "avx512vbmi"}
    for feature in backend.info()["cpu_features"]:
        assert names.get(feature, feature) in flags


def test_set_isa_and_back(isa: str) -> None:
    assert backend.isa() == isa == backend.info()["isa"]
    backend.set_isa(None)
    assert backend.isa() == (os.environ.get("SPARSEKD_ISA") or backend.available_isas()[0])


def test_an_unknown_isa_is_refused_and_nothing_changes() -> None:
    before = backend.isa()
    for name in ("sse2", "AVX2", "scalar ", "avx512_vbmi2"):
        with pytest.raises(ValueError, match=rf"unknown instruction set '{name}'") as raised:
            backend.set_isa(name)
        assert all(known in str(raised.value) for known in backend.known_isas())
    assert backend.isa() == before


def test_an_unavailable_isa_is_refused() -> None:
    missing = [name for name in backend.known_isas() if name not in backend.available_isas()]
    if not missing:
        pytest.skip("this CPU has every instruction set")
    with pytest.raises(ValueError, match=r"not available on this CPU; available: .*scalar"):
        backend.set_isa(missing[0])


def test_the_environment_chooses() -> None:
    program = "from sparsekd import backend; print(backend.isa())"
    assert run_python(program, SPARSEKD_ISA="scalar").stdout.split() == ["scalar"]
    best = backend.available_isas()[0]
    assert run_python(program, SPARSEKD_ISA="").stdout.split() == [best]


def test_an_unknown_isa_in_the_environment() -> None:
    """The import works; the first use says what is wrong, and a later choice mends it."""
    program = """
import torch
from sparsekd import backend, nn
layer = nn.Linear(3, 2)
for use in (backend.isa, lambda: layer(torch.ones(1, 3)), lambda: backend.set_isa(None)):
    try:
        use()
    except ValueError as error:
        print(error)
backend.set_isa("scalar")
print(backend.isa(), layer(torch.ones(1, 3)).tolist())
"""
    result = run_python(program, SPARSEKD_ISA="fast")
    *refusals, last = result.stdout.splitlines()
    assert refusals == [refusals[0]] * 3, result.stderr
    assert refusals[0].startswith("unknown instruction set 'fast'; known: ")
    assert refusals[0].endswith("scalar")
    assert last == "scalar [[0.0, 0.0]]"


def test_threads_are_those_of_torch() -> None:
    torch.set_num_threads(3)
    assert backend.num_threads() == 3


def test_check_binary_is_installed_and_runs() -> None:
    binary = backend.check_binary()
    assert os.access(binary, os.X_OK)


def test_info_is_plain_data() -> None:
    info = backend.info()
    assert len(info["source_hash"]) == 64
    assert info["openmp_library"]
    assert all(isinstance(value, (str, list)) for value in info.values())


@pytest.mark.parametrize("fmt", INT8, ids=lambda f: f.name)
@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (16, 64), (17, 65), (33, 200), (0, 5), (5, 0)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_pack_and_unpack(fmt: backend.Format, shape: tuple[int, int], share: float) -> None:
    outputs, inputs = shape
    weight = torch.randint(-127, 128, (outputs, 1, inputs), dtype=torch.int8)
    weight *= torch.rand(weight.shape) < share
    packed = backend.pack(fmt, weight)
    assert tuple(packed) == fmt.tensors
    assert all(tensor.is_contiguous() for tensor in packed.values())
    back = backend.unpack(fmt, packed, (outputs, 1, inputs))
    assert torch.equal(back, weight)
    again = backend.pack(fmt, back)
    assert all(torch.equal(packed[name], again[name]) for name in packed)


@pytest.mark.parametrize("fmt", INT8, ids=lambda f: f.name)
def test_pack_takes_any_strides(fmt: backend.Format) -> None:
    weight = torch.randint(-127, 128, (70, 1, 33), dtype=torch.int8).permute(2, 1, 0)
    packed, wanted = backend.pack(fmt, weight), backend.pack(fmt, weight.contiguous())
    assert all(torch.equal(packed[name], wanted[name]) for name in packed)


@pytest.mark.parametrize("fmt", INT8, ids=lambda f: f.name)
def test_pack_refuses(fmt: backend.Format) -> None:
    low = torch.zeros(3, 1, 4, dtype=torch.int8)
    low[1, 0, 2] = -128
    cases: list[tuple[torch.Tensor, str]] = [
        (low, "-128 in output 1"),
        (torch.zeros(3, 1, 4), "dtype float32, expected int8"),
        (torch.zeros(3, 1, 4, dtype=torch.uint8), "dtype uint8, expected int8"),
        (torch.zeros(3, 1, 4, dtype=torch.bfloat16), r"dtype (torch\.)?bfloat16"),
        (torch.zeros(3, 1, 4, dtype=torch.int8, device="meta"), "on device meta"),
    ]
    for weight, message in cases:
        with pytest.raises(ValueError, match=f"weight: .*{message}"):
            backend.pack(fmt, weight)


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (1, 1, 3, 4)])
def test_pack_refuses_other_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="weight: shape"):
        backend.pack(INT8[0], torch.zeros(shape, dtype=torch.int8))


def test_unpack_refuses_other_sizes() -> None:
    packed = backend.pack(INT8[0], torch.ones(20, 1, 70, dtype=torch.int8))
    for outputs, inputs in [(20, 140), (33, 70), (19, 70), (20, 60)]:
        with pytest.raises(ValueError, match=r"(steps|step_ptr|values|positions): "):
            backend.unpack(INT8[0], packed, (outputs, 1, inputs))


def test_an_unknown_kernel_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown kernel 'csr' for int8.*windowed, dense"):
        backend.format_of(Int8(), "csr")
    with pytest.raises(ValueError, match=r"unknown kernel 'dense' for fp32.*windowed, csr"):
        backend.format_of(Fp32(), "dense")


def test_exactly_one_openmp_runtime_is_loaded() -> None:
    """The extension shares torch's: a second runtime would oversubscribe and hang after fork."""
    program = """
import torch
from sparsekd import backend, nn
torch.set_num_threads(2)
nn.Linear(700, 700)(torch.rand(9, 700))
import re
names = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
print(*sorted(n for n in names if re.search(r"lib(g|i|)omp[-.0-9a-f]*\\.so", n)))
print(backend.info()["openmp_library"])
"""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    loaded, used = run_python(program).stdout.splitlines()
    assert len(loaded.split()) == 1, loaded
    assert Path(used).resolve() == Path(loaded).resolve()
