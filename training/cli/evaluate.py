"""``vigie evaluate ...``: the commands, each in a file of its own."""

from __future__ import annotations

import typer

from training.cli.evaluate_ablation import ablation
from training.cli.evaluate_anomaly import anomaly
from training.cli.evaluate_calibration import calibration
from training.cli.evaluate_cascade import cascade
from training.cli.evaluate_denoising import denoising
from training.cli.evaluate_finetune import finetune
from training.cli.evaluate_flood import flood
from training.cli.evaluate_knn import knn
from training.cli.evaluate_linear import linear
from training.cli.evaluate_ood import ood
from training.cli.evaluate_retrieval import retrieval
from training.cli.evaluate_segment import segment
from training.cli.evaluate_spacenet8 import spacenet8
from training.cli.evaluate_sweep import sweep

evaluate = typer.Typer(help="Judge what the daemon's networks and decisions are worth.", no_args_is_help=True)

evaluate.command()(ood)
evaluate.command()(anomaly)
evaluate.command()(calibration)
evaluate.command()(cascade)
evaluate.command()(denoising)
evaluate.command()(flood)
evaluate.command()(spacenet8)
evaluate.command()(sweep)
evaluate.command()(retrieval)
evaluate.command()(knn)
evaluate.command()(linear)
evaluate.command()(finetune)
evaluate.command()(segment)
evaluate.command()(ablation)
