"""A learning rate that falls in steps."""

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from mona_peft.tasks.training.schedule import MultiStepTrainer


def rates(tmp_path, steps: int, **kwargs) -> list[float]:
    """Learning rates of all steps of a training of 36 epochs."""
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", num_train_epochs=36, **kwargs)
    trainer = MultiStepTrainer(nn.Linear(1, 1), args)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    scheduler, values = trainer.create_scheduler(steps), []
    for _ in range(steps):
        values.append(scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        scheduler.step()
    return values


def test_rate_falls_to_a_tenth_at_each_milestone(tmp_path):
    kwargs = {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"milestones": [27, 33]}}
    expected = [1.0] * 270 + [0.1] * 60 + [0.01] * 30
    assert rates(tmp_path, 360, **kwargs) == pytest.approx(expected)
    warm = rates(tmp_path, 360, warmup_steps=4, **kwargs)
    assert warm[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert warm[5:] == pytest.approx(expected[5:])


def test_a_constant_rate_has_no_warm_up(tmp_path):
    kwargs = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"milestones": [9]}, "warmup_steps": 0.1}
    assert rates(tmp_path, 36, **kwargs) == pytest.approx([1.0] * 9 + [0.1] * 27)


def test_other_schedules_are_those_of_trainer(tmp_path):
    assert rates(tmp_path, 4, lr_scheduler_type="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("kind", "milestones", "message"),
    [
        ("cosine", [27, 33], "--lr_scheduler_type cosine: .*constant or constant_with_warmup"),
        ("constant", [33, 27], r"milestones \[33, 27\] must be ascending epochs between 0 and --num_train_epochs 36"),
        ("constant", [27, 36], r"milestones \[27, 36\] must be ascending"),
        ("constant", [0, 27], r"milestones \[0, 27\] must be ascending"),
    ],
)
def test_milestones_that_mean_nothing_are_refused(tmp_path, kind, milestones, message):
    with pytest.raises(ValueError, match=message):
        rates(tmp_path, 36, lr_scheduler_type=kind, lr_scheduler_kwargs={"milestones": milestones})
