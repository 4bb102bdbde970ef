"""DINO: self-distillation without labels, as X-STARS uses it.

Caron et al., *Emerging properties in self-supervised vision transformers*, ICCV 2021. The equations' letters are kept:
student and teacher outputs pass a head to K prototypes; the teacher's are centred and sharpened.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class DinoHead(nn.Module):
    """Projection of a CLS token on K prototypes: MLP, L2 norm, then a linear map whose rows have norm 1."""

    def __init__(self, dim: int, *, hidden: int = 2048, bottleneck: int = 256, prototypes: int = 65536) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, cls: Tensor) -> Tensor:
        """(B, dim) -> (B, K) in FP32, cosines in [-1, 1]."""
        unit = F.normalize(self.layers(cls).float(), dim=-1)
        return (unit @ F.normalize(self.prototypes, dim=-1).T).float()


class DinoLoss(nn.Module):
    """Cross-entropy from centred, sharpened teacher outputs to student outputs of *other* views (Caron eq. 3)."""

    centre: Tensor

    def __init__(self, prototypes: int, *, student_temperature: float = 0.1, centre_momentum: float = 0.9) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.centre_momentum = centre_momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, student: list[Tensor], teacher: list[Tensor], teacher_temperature: float) -> Tensor:
        """Mean over all (teacher view, other student view) pairs; a scalar.

        Args:
            student: one (B, K) tensor per view, the global views first.
            teacher: one (B, K) tensor per global view, in the same order.
            teacher_temperature: τ_t.
        """
        targets = [torch.softmax((t.detach() - self.centre) / teacher_temperature, dim=-1) for t in teacher]
        logs = [torch.log_softmax(s / self.student_temperature, dim=-1) for s in student]
        terms = [
            -(target * log).sum(dim=-1).mean()
            for i, target in enumerate(targets)
            for j, log in enumerate(logs)
            if i != j
        ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def update_centre(self, mean: Tensor) -> None:
        """``c ← m c + (1 - m) mean of the teacher's outputs`` over all views of the whole batch, (K,) (Caron eq. 4)."""
        self.centre.mul_(self.centre_momentum).add_(mean, alpha=1 - self.centre_momentum)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``θ_t ← m θ_t + (1 - m) θ_s`` for every parameter."""
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    for slow, fast in pairs:
        slow.mul_(momentum).add_(fast.detach(), alpha=1 - momentum)
