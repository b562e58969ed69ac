"""Patterns and schemes: what they keep, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekd.spec import NM, Int8, Pattern, Unstructured, pattern_from


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 5), st.integers(1, 50))
def test_nm_keeps_the_best_n_of_every_m(n, more, outputs, inputs):
    m = n + more
    score = torch.rand(outputs, inputs)
    mask = NM(n, m).mask(score)
    for begin in range(0, inputs, m):
        group, kept = score[:, begin : begin + m], mask[:, begin : begin + m]
        count = -(-n * group.shape[1] // m)
        assert bool((kept.sum(1) == count).all())
        lowest_kept = group.masked_fill(~kept, 2.0).amin(1)
        highest_dropped = group.masked_fill(kept, -1.0).amax(1)
        assert bool((lowest_kept >= highest_dropped).all())


def test_nm_ties_go_to_the_lower_input():
    assert NM(1, 4).mask(torch.ones(1, 8)).nonzero()[:, 1].tolist() == [0, 4]


def test_nm_takes_more_dimensions_as_one_row_an_output():
    score = torch.rand(3, 4, 2, 2)
    mask = NM(2, 8).mask(score)
    assert mask.shape == score.shape
    assert torch.equal(mask.flatten(1), NM(2, 8).mask(score.flatten(1)))


def test_nm_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"at least 2 dimensions, got \(5,\)"):
        NM(1, 4).mask(torch.ones(5))


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, 4), (1.0, 4)])
def test_nm_refuses_numbers_that_make_no_pattern(n, m):
    with pytest.raises(ValueError, match="integers with 1 <= n <= m"):
        NM(n, m)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999])
def test_unstructured_keeps_the_best_of_the_whole_layer(sparsity):
    score = torch.rand(20, 30)
    mask = Unstructured(sparsity).mask(score)
    assert int(mask.sum()) == 600 - round(600 * sparsity)
    if not mask.all():
        assert score[mask].min() >= score[~mask].max()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0, float("nan")])
def test_unstructured_refuses_a_share_that_is_none(sparsity):
    with pytest.raises(ValueError, match="0 <= sparsity < 1"):
        Unstructured(sparsity)


def test_density_is_the_share_kept():
    assert (NM(4, 32).density, Unstructured(0.75).density) == (0.125, 0.25)
    with pytest.raises(NotImplementedError, match="Pattern does not define density"):
        _ = Pattern().density


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("4:32", NM(4, 32)), ("unstructured:0.9", Unstructured(0.9)), ("2:4", NM(2, 4))],
)
def test_short_names(name, pattern):
    assert pattern_from(name) == pattern
    assert pattern_from(pattern) is pattern


@pytest.mark.parametrize("name", ["4/32", "unstructured", "", "4:32:1", None, 0.5])
def test_unknown_patterns_list_the_forms(name):
    with pytest.raises(ValueError, match="expected a Pattern, 'n:m' such as '4:32'"):
        pattern_from(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": "half"}, "are 'dynamic' or 'static', got 'half'"),
        ({"observer": "median"}, "are 'minmax' or 'percentile', got 'median'"),
        ({"percentile": 49.0}, r"must lie in 50\.\.100, got 49\.0"),
        ({"percentile": float("nan")}, r"must lie in 50\.\.100, got nan"),
    ],
)
def test_int8_refuses_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        Int8(**options)


def test_specs_are_frozen_values():
    assert Int8() == Int8("dynamic", "minmax", 99.99)
    assert len({Int8(), Int8(), NM(4), NM(4, 32)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Int8().activations = "static"
