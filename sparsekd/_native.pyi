from collections.abc import Callable
from typing import Any

from numpy import float32, int8, int32, int64, uint8, uint16, uint32
from numpy.typing import NDArray
from torch import Tensor

source_hash: str
compiler: str

def isa() -> str: ...
def known_isas() -> list[str]: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def cpu_features() -> list[str]: ...
def openmp_library() -> str: ...
def buffer_bytes() -> tuple[int, int]: ...  # held now, the most since the last restart
def restart_buffer_bytes() -> None: ...
def rate_names() -> list[str]: ...
def run_rate(name: str, turns: int, threads: int) -> int: ...
def read_memory(data: int, bytes: int, turns: int, threads: int) -> int: ...

# Windowed weights. Dense matrices are [outputs, taps * inputs]; bf16 travels as its bits in uint16
# (packing also takes float32 and rounds it). An order None is the one that pads least, if any.
_Order = NDArray[int32] | None

def pack_windowed_s8(
    weight: NDArray[int8], taps: int = 1, groups: int = 1, order: _Order = None
) -> tuple[NDArray[int8], NDArray[uint8], NDArray[uint8], NDArray[int64], _Order]: ...
def unpack_windowed_s8(
    values: NDArray[int8],
    positions: NDArray[uint8],
    steps: NDArray[uint8],
    step_ptr: NDArray[int64],
    order: _Order,
    outputs: int,
    inputs: int,
    taps: int = 1,
    groups: int = 1,
) -> NDArray[int8]: ...
def pack_dense_s8(weight: NDArray[int8]) -> NDArray[int8]: ...
def unpack_dense_s8(panels: NDArray[int8], outputs: int, inputs: int) -> NDArray[int8]: ...
def pack_csr_f32(
    weight: NDArray[float32],
) -> tuple[NDArray[int64], NDArray[int32], NDArray[float32]]: ...
def unpack_csr_f32(
    row_ptr: NDArray[int64],
    columns: NDArray[int32],
    values: NDArray[float32],
    inputs: int,
) -> NDArray[float32]: ...

_Tensors = tuple[Tensor | None, ...]
_DirectCall = Callable[[Tensor, dict[str, Tensor | None]], Tensor | None]

class Torch:
    def __init__(
        self,
        tensor: type[Tensor],
        observers: tuple[Callable[[], object], ...],
        forward_ad: dict[str, Any],
        num_threads: Callable[[], int],
    ) -> None: ...
    @property
    def can_read(self) -> bool: ...

class LinearS8:
    @staticmethod
    def windowed(
        values: NDArray[Any],
        positions: NDArray[Any],
        steps: NDArray[Any],
        step_ptr: NDArray[Any],
        order: _Order,
        inputs: int,
        scale: NDArray[float32],
        bias: NDArray[float32] | None,
        input_scale: float | None,
        input_zero_point: int,
        activation: str,
    ) -> LinearS8: ...
    @staticmethod
    def dense(
        panels: NDArray[Any],
        inputs: int,
        scale: NDArray[float32],
        bias: NDArray[float32] | None,
        input_scale: float | None,
        input_zero_point: int,
        activation: str,
    ) -> LinearS8: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def forward(self, x: int, rows: int, y: int, threads: int) -> None: ...
    def direct(self, torch: Torch, tensors: _Tensors) -> _DirectCall: ...

class LinearCsr:
    @staticmethod
    def from_parts(
        row_ptr: NDArray[Any],
        columns: NDArray[Any],
        values: NDArray[Any],
        inputs: int,
        bias: NDArray[float32] | None,
        activation: str,
    ) -> LinearCsr: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def forward(self, x: int, rows: int, y: int, threads: int) -> None: ...
    def direct(self, torch: Torch, tensors: _Tensors) -> _DirectCall: ...

def pack_windowed_f32(
    weight: NDArray[float32], window: int, taps: int = 1, groups: int = 1, order: _Order = None
) -> tuple[NDArray[float32], NDArray[uint32], NDArray[uint8], NDArray[int64], _Order]: ...
def unpack_windowed_f32(
    values: NDArray[float32],
    positions: NDArray[uint32],
    steps: NDArray[uint8],
    step_ptr: NDArray[int64],
    order: _Order,
    window: int,
    outputs: int,
    inputs: int,
    taps: int = 1,
    groups: int = 1,
) -> NDArray[float32]: ...
def windowed_f32_steps(
    weight: NDArray[float32], window: int, taps: int = 1, groups: int = 1
) -> int: ...
def cheaper_f32_window(
    weight: NDArray[float32], taps: tuple[int, int] = (1, 1), groups: int = 1
) -> int: ...
def pack_windowed_bf16(
    weight: NDArray[float32] | NDArray[uint16],
    taps: int = 1,
    groups: int = 1,
    order: _Order = None,
) -> tuple[NDArray[uint16], NDArray[uint16], NDArray[uint8], NDArray[int64], _Order]: ...
def unpack_windowed_bf16(
    values: NDArray[uint16],
    positions: NDArray[uint16],
    steps: NDArray[uint8],
    step_ptr: NDArray[int64],
    order: _Order,
    outputs: int,
    inputs: int,
    taps: int = 1,
    groups: int = 1,
) -> NDArray[uint16]: ...

class LinearFloat:
    @staticmethod
    def windowed_f32(
        values: NDArray[float32],
        positions: NDArray[uint32],
        steps: NDArray[uint8],
        step_ptr: NDArray[int64],
        order: _Order,
        window: int,
        outputs: int,
        inputs: int,
        bias: NDArray[float32] | None,
        activation: str,
    ) -> LinearFloat: ...
    @staticmethod
    def windowed_bf16(
        values: NDArray[uint16],
        positions: NDArray[uint16],
        steps: NDArray[uint8],
        step_ptr: NDArray[int64],
        order: _Order,
        outputs: int,
        inputs: int,
        bias: NDArray[float32] | None,
        activation: str,
    ) -> LinearFloat: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def forward(self, x: int, rows: int, y: int, threads: int) -> None: ...
    def direct(self, torch: Torch, tensors: _Tensors) -> _DirectCall: ...

def pack_conv_dense_s8(weight: NDArray[int8], groups: int) -> NDArray[int8]: ...
def unpack_conv_dense_s8(
    panels: NDArray[int8], outputs: int, inputs: int, taps: int, groups: int
) -> NDArray[int8]: ...

_Data = tuple[int, bool, float, int]  # address, u8, scale, zero point
_Shape = tuple[int, int, int, int]

class PoolGeometry:
    def __init__(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        ceil_mode: bool,
    ) -> None: ...
    def out_size(self, height: int, width: int) -> tuple[int, int]: ...

def max_pool2d(
    geometry: PoolGeometry, x: _Data, y: _Data, nhwc: bool, shape: _Shape, threads: int
) -> None: ...
def avg_pool2d(
    geometry: PoolGeometry,
    x: _Data,
    y: _Data,
    nhwc: bool,
    shape: _Shape,
    include_pad: bool,
    divisor: int,
    threads: int,
) -> None: ...
def add(a: _Data, b: _Data, y: _Data, count: int, activation: str, threads: int) -> None: ...

class ConvGeometry:
    def __init__(
        self,
        channels: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
        padding: tuple[int, int, int, int],
        groups: int,
        rows: bool = False,
    ) -> None: ...
    def can_have_rows(self) -> bool: ...
    def out_size(self, height: int, width: int) -> tuple[int, int]: ...

class _Conv2d:
    def forward(
        self,
        x: int,
        x_u8: bool,
        x_nhwc: bool,
        shape: tuple[int, int, int, int],
        y: int,
        y_u8: bool,
        y_nhwc: bool,
        y_scale: float,
        y_zero_point: int,
        threads: int,
        residual: tuple[int, bool, bool, float, int] = ...,  # address, u8, nhwc, scale, zero point
    ) -> None: ...
    def direct(self, torch: Torch, tensors: _Tensors, dims: int) -> _DirectCall: ...

class Conv2dS8(_Conv2d):
    @staticmethod
    def windowed(
        values: NDArray[Any],
        positions: NDArray[Any],
        steps: NDArray[Any],
        step_ptr: NDArray[Any],
        order: _Order,
        geometry: ConvGeometry,
        scale: NDArray[float32],
        bias: NDArray[float32] | None,
        input_scale: float | None,
        input_zero_point: int,
        activation: str,
    ) -> Conv2dS8: ...
    @staticmethod
    def dense(
        panels: NDArray[Any],
        geometry: ConvGeometry,
        scale: NDArray[float32],
        bias: NDArray[float32] | None,
        input_scale: float | None,
        input_zero_point: int,
        activation: str,
    ) -> Conv2dS8: ...
    @staticmethod
    def depthwise(
        values: NDArray[Any],
        geometry: ConvGeometry,
        scale: NDArray[float32],
        bias: NDArray[float32] | None,
        input_scale: float | None,
        input_zero_point: int,
        activation: str,
    ) -> Conv2dS8: ...
    def seconds_u8(
        self,
        x: int,
        shape: tuple[int, int, int, int],
        y: int,
        y_scale: float,
        y_zero_point: int,
        threads: int,
    ) -> float: ...

class Conv2dFloat(_Conv2d):
    @staticmethod
    def windowed_f32(
        values: NDArray[Any],
        positions: NDArray[Any],
        steps: NDArray[Any],
        step_ptr: NDArray[Any],
        order: _Order,
        window: int,
        geometry: ConvGeometry,
        bias: NDArray[float32] | None,
        activation: str,
    ) -> Conv2dFloat: ...
    @staticmethod
    def windowed_bf16(
        values: NDArray[Any],
        positions: NDArray[Any],
        steps: NDArray[Any],
        step_ptr: NDArray[Any],
        order: _Order,
        geometry: ConvGeometry,
        bias: NDArray[float32] | None,
        activation: str,
    ) -> Conv2dFloat: ...
    @staticmethod
    def depthwise(
        values: NDArray[Any],
        geometry: ConvGeometry,
        bias: NDArray[float32] | None,
        activation: str,
    ) -> Conv2dFloat: ...
