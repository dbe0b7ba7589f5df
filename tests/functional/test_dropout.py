"""Seeded dropout masks."""

import pytest
import torch

from mona_peft.functional.dropout import draw_seed, keep_mask, keep_probability

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
def test_zeros_are_as_frequent_as_asked_for(dropout, dtype):
    mask = keep_mask(torch.empty(1000, 999, dtype=dtype), dropout, seed=5)
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0, 1}
    deviation = (dropout * (1 - dropout) / mask.numel()) ** 0.5
    assert mask.double().mean().item() == pytest.approx(1 - dropout, abs=5 * deviation + 2**-16)
    assert keep_probability(dropout, CPU) == pytest.approx(1 - dropout, abs=2**-16)
    # Neighbours along both axes are independent.
    values = mask.double() - mask.double().mean()
    for shift in (1, 2, 3, 4):
        for axis in (0, 1):
            correlation = (values * values.roll(shift, axis)).mean() / values.pow(2).mean()
            assert abs(correlation) < 5 / mask.numel() ** 0.5


def test_a_seed_determines_the_mask():
    like = torch.empty(7, 9)
    assert torch.equal(keep_mask(like, 0.5, 3), keep_mask(like, 0.5, 3))
    assert not torch.equal(keep_mask(like, 0.5, 3), keep_mask(like, 0.5, 4))


def test_seeds_come_from_the_default_generator():
    torch.manual_seed(1)
    first, second = draw_seed(), draw_seed()
    torch.manual_seed(1)
    assert (draw_seed(), draw_seed()) == (first, second)
    assert first != second


def test_something_is_kept_however_close_to_one():
    assert keep_probability(1 - 1e-9, CPU) > 0
