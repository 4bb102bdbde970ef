"""A run over several processes, as ``torchrun`` starts them: equal replicas, each with its slice of every batch.

All processes draw the same batch from (seed, step), and each works on its own slice; gradients are then added up
(NCCL on GPUs, Gloo on CPUs). So a run means the same on any number of processes, up to the rounding of sums, and no
process sees another's tiles. Only the first process writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from training.errors import ProcessLost, RunInvalid

SILENCE = timedelta(minutes=15)
"""A process that says nothing for so long is taken for lost; pictures and checkpoints take less."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all of a run. One process is a world too, and talks to nobody."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is immutable
    """Where this process computes, and where what is exchanged must lie."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of ``count`` rows: contiguous, as equal as can be, together all of them.

        Raises:
            RunInvalid: there are fewer rows than processes.
        """
        if count < self.size:
            raise RunInvalid(f"a batch of {count} tiles cannot be shared by {self.size} processes; use fewer processes")
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def mean_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor, weight: float) -> Tensor:
        """Replace each gradient by the whole batch's, and return the whole batch's loss.

        Args:
            parameters: the same, in the same order, in all processes.
            loss: mean loss of this process's rows, a scalar.
            weight: this process's share of the batch, 0..1; all together 1.

        Raises:
            ProcessLost: another process ended or fell silent.
        """
        loss = loss.detach()
        if self.size == 1:
            return loss
        owners = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in owners]
        flat = torch.cat([loss.reshape(1).float(), *[g.reshape(-1).float() for g in gradients]]) * weight
        with _told():
            distributed.all_reduce(flat)
        parts = torch.split(flat[1:], [g.numel() for g in gradients])
        for owner, part, gradient in zip(owners, parts, gradients, strict=True):
            owner.grad = part.reshape(gradient.shape).to(gradient.dtype)
        return flat[0]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the sum over the processes, where each one's loss is its part of the whole.

        Args:
            parameters: those with a gradient: the same, in the same order, in all processes.

        Raises:
            ProcessLost: another process ended or fell silent.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.summed(torch.cat([g.reshape(-1).float() for g in gradients]))
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.reshape(gradient.shape))

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the processes, without a gradient; of the shape of ``values``, which all share.

        Raises:
            ProcessLost: another process ended or fell silent.
        """
        total = values.detach().clone()
        if self.size > 1:
            with _told():
                distributed.all_reduce(total)
        return total

    def whole(self, own: Tensor, places: Tensor, count: int) -> Tensor:
        """Every process's rows, with a gradient to this process's own.

        The loss of all rows, computed in each process, then has gradients that :meth:`sum_gradients` makes whole.

        Args:
            own: this process's rows, (n, ...).
            places: their places among all rows, (n,); the processes' places together are 0 .. ``count`` - 1.
            count: number of all rows.

        Returns:
            (count, ...).

        Raises:
            ProcessLost: another process ended or fell silent.
        """
        empty = own.new_zeros((count, *own.shape[1:]))
        others = self.summed(empty.index_copy(0, places, own.detach())) if self.size > 1 else empty
        return others.index_copy(0, places, own)

    def agree(self, number: int) -> int:
        """The first process's number, in all of them.

        Raises:
            ProcessLost: another process ended or fell silent.
        """
        if self.size == 1:
            return number
        told = torch.tensor([number], dtype=torch.int64, device=self.device)
        with _told():
            distributed.broadcast(told, src=0)
        return int(told.item())

    def require_same(self, number: int, what: str) -> None:
        """Check that all processes start from the same state.

        Raises:
            RunInvalid: a number differs between processes.
            ProcessLost: another process ended or fell silent.
        """
        if self.size == 1:
            return
        # Two maxima: of the number and of its negative.
        ends = torch.tensor([number, -number], dtype=torch.int64, device=self.device)
        with _told():
            distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
        high, low = int(ends[0].item()), -int(ends[1].item())
        if high != low:
            raise RunInvalid(
                f"{what} is {low} in one process and {high} in another; give all processes the same data and the same "
                "--out, on a disk that they share"
            )


ALONE = World()


@contextmanager
def joined(environment: Mapping[str, str], device: str) -> Iterator[World]:
    """Join the other processes that ``torchrun`` started, if it started this one.

    Args:
        environment: the process's; torchrun sets RANK, WORLD_SIZE and LOCAL_RANK in it.
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA where there is one).

    Raises:
        RunInvalid: there is no such device, or not one for each process of this machine.
        ProcessLost: the others do not answer.
    """
    size, rank = int(environment.get("WORLD_SIZE", "1")), int(environment.get("RANK", "0"))
    chosen = _device(device, int(environment.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with _told():
        distributed.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size, timeout=SILENCE
        )
    try:
        yield World(rank=rank, size=size, device=chosen)
    finally:
        distributed.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name not in ("cpu", "cuda", "auto"):
        raise RunInvalid(f"no device {name!r}; there are cpu, cuda and auto")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RunInvalid("no CUDA device can be used here; give --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise RunInvalid(
            f"process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; start as many "
            "processes as there are GPUs"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def _told() -> Iterator[None]:
    """Torch's failures of a collective, in our words."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(
            f"another process of this run ended or fell silent ({str(error).splitlines()[0]}); look at its own error, "
            "then start the same command again: it goes on from the last checkpoint"
        ) from error
