"""The losses of fine-tuning against formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.finetune.options import Distill, Recipe
from nas.finetune.task import distillation, loss_of

LOGITS = [[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]
SECOND = [[0.3, 0.9, 0.1], [-1.0, 0.2, 0.4]]
TAUGHT = [[1.0, 3.0, -2.0], [0.5, 0.0, 0.7]]
LABELS = [[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]
"""The first image is a mixture."""


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(logits: list[list[float]], targets: list[list[float]]) -> float:
    rows = zip(logits, targets, strict=True)
    return sum(
        -t * math.log(p) for row, target in rows for t, p in zip(target, softmax(row), strict=True)
    ) / len(logits)


def smoothed(targets: list[list[float]], share: float) -> list[list[float]]:
    return [[(1 - share) * t + share / len(row) for t in row] for row in targets]


def soft(logits: list[list[float]], temperature: float) -> float:
    """Eq. 2's distillation term."""
    total = 0.0
    for row, taught in zip(logits, TAUGHT, strict=True):
        student = softmax(row, temperature)
        teacher = softmax(taught, temperature)
        total += sum(t * (math.log(t) - math.log(s)) for t, s in zip(teacher, student, strict=True))
    return temperature**2 * total / len(logits)


def hard(logits: list[list[float]]) -> float:
    """Eq. 3's: TAUGHT answers with the classes 1 and 2."""
    return cross_entropy(logits, [[0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_that_of_the_paper(temperature: float) -> None:
    logits = torch.tensor(LOGITS)
    taught = torch.tensor(TAUGHT)
    assert float(distillation(logits, taught, "soft", temperature)) == pytest.approx(
        soft(LOGITS, temperature)
    )
    assert float(distillation(logits, taught, "hard", temperature)) == pytest.approx(hard(LOGITS))


@pytest.mark.parametrize("two", [False, True], ids=["one classifier", "two classifiers"])
@pytest.mark.parametrize("distill", ["hard", "soft"])
def test_with_a_teacher_the_second_classifier_learns_it_and_a_single_one_both(
    two: bool, distill: Distill
) -> None:
    recipe = Recipe(
        label_smoothing=0.1, distill=distill, distill_temperature=2.0, distill_weight=0.3
    )
    output = (torch.tensor(LOGITS), torch.tensor(SECOND)) if two else torch.tensor(LOGITS)
    loss, logits = loss_of(output, torch.tensor(LABELS), torch.tensor(TAUGHT), recipe)
    learner = SECOND if two else LOGITS
    taught = hard(learner) if distill == "hard" else soft(learner, 2.0)
    assert float(loss) == pytest.approx(
        0.7 * cross_entropy(LOGITS, smoothed(LABELS, 0.1)) + 0.3 * taught
    )
    answer = (torch.tensor(LOGITS) + torch.tensor(SECOND)) / 2 if two else torch.tensor(LOGITS)
    torch.testing.assert_close(logits, answer)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_a_teacher_every_classifier_learns_the_labels(smoothing: float) -> None:
    recipe = Recipe(label_smoothing=smoothing)
    targets = torch.tensor(LABELS)
    each = [cross_entropy(logits, smoothed(LABELS, smoothing)) for logits in (LOGITS, SECOND)]
    assert float(loss_of(torch.tensor(LOGITS), targets, None, recipe)[0]) == pytest.approx(each[0])
    both = (torch.tensor(LOGITS), torch.tensor(SECOND))
    assert float(loss_of(both, targets, None, recipe)[0]) == pytest.approx(sum(each) / 2)


def test_half_precision_is_judged_in_single() -> None:
    output = torch.tensor(LOGITS).bfloat16()
    loss, logits = loss_of(
        output, torch.tensor(LABELS), torch.tensor(TAUGHT).bfloat16(), Recipe(distill="soft")
    )
    assert loss.dtype == logits.dtype == torch.float32


@pytest.mark.parametrize("distill", ["hard", "soft"])
def test_distillation_brings_a_student_to_agree_with_its_teacher(distill: Distill) -> None:
    """The labels are noise: only from the teacher can the student learn what it answers."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    teacher = torch.nn.Linear(8, 4)
    with torch.no_grad():
        taught = 4 * teacher(x)
        noise = F.one_hot(torch.randint(4, (256,)), 4).float()

    def agreement(recipe: Recipe, teach: Tensor | None) -> float:
        torch.manual_seed(1)
        student = torch.nn.Linear(8, 4)
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss_of(student(x), noise, teach, recipe)[0].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return float((student(x).argmax(dim=1) == taught.argmax(dim=1)).float().mean())

    assert agreement(Recipe(distill=distill, distill_weight=0.8), taught) > 0.9
    assert agreement(Recipe(), None) < 0.7
