"""How a student's answers are compared with a teacher's: pure functions of (N, classes) logits, means over images.

All of them are multiplied by tau^2 where they soften with tau, so that their gradients keep their size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Soft = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Student logits, teacher logits, true classes (N,) -> a scalar."""


def hinton(student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor, *, tau: float) -> torch.Tensor:  # noqa: ARG001
    """``tau^2 KL(teacher_tau || student_tau)``; Hinton, Vinyals, Dean 2015, arXiv:1503.02531."""
    return tau**2 * F.kl_div(
        F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1), reduction="batchmean", log_target=True
    )


def decoupled(
    student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor, *, tau: float, beta: float
) -> torch.Tensor:
    """Decoupled distillation: ``tau^2 (TCKD + beta NCKD)``; Zhao et al. 2022, arXiv:2203.08679.

    TCKD is the divergence of (true class, all others), NCKD that of the other classes among themselves. Plain
    distillation is TCKD + (1 - p) NCKD, p being the teacher's share of the true class: where the teacher is sure, what
    it knows of the other classes hardly counts there, and here it does.
    """
    other = torch.ones_like(student, dtype=torch.bool).scatter_(1, truth[:, None], False)

    def parts(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = F.log_softmax(logits / tau, dim=1)
        rest = log_p[other].view(len(logits), -1)
        whole = torch.stack([log_p.gather(1, truth[:, None])[:, 0], rest.logsumexp(1)], dim=1)
        return whole, rest.log_softmax(1)

    (whole, rest), (teacher_whole, teacher_rest) = parts(student), parts(teacher)
    target = F.kl_div(whole, teacher_whole, reduction="batchmean", log_target=True)
    others = F.kl_div(rest, teacher_rest, reduction="batchmean", log_target=True)
    return tau**2 * (target + beta * others)


def relations(student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor, *, tau: float) -> torch.Tensor:  # noqa: ARG001
    """DIST: ``tau^2`` times (1 - correlation) of each image's probabilities over the classes, plus the same of each
    class's over the images of the batch; Huang et al. 2022, arXiv:2205.10536.

    It asks for the teacher's order and proportions, not for its values, and so suits strong teachers.
    """
    p, q = (student / tau).softmax(1), (teacher / tau).softmax(1)
    return tau**2 * ((1 - _correlation(p, q)).mean() + (1 - _correlation(p.T, q.T)).mean())


def standardised(soft: Soft) -> Soft:
    """The same comparison of logits with mean 0 and standard deviation 1 over the classes of each image.

    Sun et al. 2024, Logit Standardization in Knowledge Distillation, arXiv:2403.01427: a small student is then not
    asked to reach the range of a large teacher's logits.
    """

    def compared(student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return soft(_standard(student), _standard(teacher), truth)

    return compared


def similarity(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Similarity-preserving distillation: which images of a batch look alike to the net; Tung, Mori 2019,
    arXiv:1907.09682.

    ``|G_t - G_s|^2 / N^2``, G being the products of all pairs of feature vectors with rows scaled to length 1. The two
    nets may have features of different sizes.

    Args:
        student: (N, ...) features of a layer. teacher: (N, ...) those of the teacher.
    """
    one, other = (F.normalize(flat @ flat.T, dim=1) for flat in (student.flatten(1), teacher.flatten(1)))
    return (one - other).square().sum() / len(student) ** 2


def _standard(logits: torch.Tensor) -> torch.Tensor:
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-7)


def _correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Pearson's, of each row."""
    return F.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True), dim=1, eps=1e-8)
