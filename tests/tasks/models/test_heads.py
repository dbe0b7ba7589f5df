"""Heads of classifiers that were trained for the same classes, or some of them: what they know is kept."""

import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification

from mona_peft.tasks.models.arguments import ModelArguments
from mona_peft.tasks.models.loading import load_classifier
from tests.models import TWO_STAGES


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (["owl", "cat", "dog"], {0: 2, 1: 0, 2: 1}),
        (["cat", "dog", "owl"], {0: 0, 1: 1, 2: 2}),
        (["ant", "owl", "cat", "bee"], {1: 2, 2: 0}),
        (["dog", "cat"], {0: 1, 1: 0}),
    ],
)
def test_classes_take_their_rows_along_whatever_their_order(tmp_path, classes, rows):
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = SwinConfig(
        **TWO_STAGES | {"num_labels": 3, "id2label": names, "label2id": {name: row for row, name in names.items()}}
    )
    pretrained = SwinForImageClassification(config)
    torch.nn.init.normal_(pretrained.classifier.bias)
    pretrained.save_pretrained(tmp_path)
    model = load_classifier(ModelArguments(model_name_or_path=str(tmp_path)), classes)
    assert model.config.id2label == dict(enumerate(classes))
    for new, old in zip(model.classifier.parameters(), pretrained.classifier.parameters(), strict=True):
        assert len(new) == len(classes)
        assert all(torch.equal(new[row], old[known]) for row, known in rows.items())
