"""Ranges from observed values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekd.quantize import Int8
from sparsekd.quantize._observers import MinMax, Percentile, observer_for

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_the_scheme_names_the_observer():
    assert isinstance(observer_for(Int8("static")), MinMax)
    chosen = observer_for(Int8("static", observer="percentile", percentile=98.0))
    assert isinstance(chosen, Percentile)
    assert chosen.percentile == 98.0


@pytest.mark.parametrize("observer", [MinMax, lambda: Percentile(90.0)])
def test_nothing_seen_is_no_range(observer):
    fresh = observer()
    fresh.add(torch.zeros(0, 3))
    assert fresh.range() is None


@pytest.mark.parametrize("observer", [MinMax, lambda: Percentile(90.0)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(observer, bad):
    with pytest.raises(ValueError, match="holds NaN or Inf"):
        observer().add(torch.tensor([1.0, bad]))


@settings(max_examples=50, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(1, 7), st.floats(50.0, 100.0))
def test_the_range_depends_on_the_values_alone(values, size, percentile):
    x = torch.tensor(values)
    for make in (MinMax, lambda: Percentile(percentile)):
        whole, parts = make(), make()
        whole.add(x)
        for part in x.flip(0).split(size):
            parts.add(part)
        for one, other in zip(whole.range(), parts.range(), strict=True):
            assert torch.equal(one, other)


@settings(max_examples=100, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=60), st.floats(50.0, 100.0))
def test_a_percentile_range_lies_between_the_exact_one_and_a_bucket_more(values, percentile):
    ordered = torch.tensor(values).sort().values
    observer = Percentile(percentile)
    observer.add(ordered)
    lo, hi = observer.range()
    cut = int(len(values) * (100.0 - percentile) / 200.0)
    low, high = ordered[cut], ordered[len(values) - 1 - cut]
    assert ordered[0] <= lo <= low
    assert high <= hi <= ordered[-1]
    least = 2.0**-130  # below the normal numbers buckets are of one absolute width
    assert float(low.double() - lo.double()) <= max(abs(float(lo)), abs(float(low))) / 128 + least
    assert float(hi.double() - high.double()) <= max(abs(float(hi)), abs(float(high))) / 128 + least


def test_a_hundred_percent_is_minmax():
    x = torch.randn(1000)
    observer = Percentile(100.0)
    observer.add(x)
    assert observer.range() == (x.min(), x.max())


def test_outliers_are_left_out_however_large():
    x = torch.randn(100_000)
    observer = Percentile(99.0)
    for batch in x.split(10_000):
        batch[0] = 1e30
        observer.add(batch)
    lo, hi = observer.range()
    assert float(lo) == pytest.approx(-2.576, abs=0.06)  # the normal distribution's 0.5 %
    assert float(hi) == pytest.approx(2.576, abs=0.06)
