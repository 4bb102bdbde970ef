"""The gate before serving: what drifts is refused by name and amount, and `auto` takes the next way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from engine.bundle import ModelBundle
from engine.errors import RunnerUnavailable
from engine.runners import Candidate, RunnerOptions, candidates, open_candidate
from engine.runners.base import Arrays, RunnableModel, Runner
from engine.runners.parity import ParityReport, measure, rank_correlation, require_parity
from engine.runners.torch import TorchRunner
from engine.scoring import RunnerChoice, SceneScorer, ScorerEvents
from tests.small_models import parts, small_bundle, tiles

NORMAL = np.linspace(0.0, 1.0, 2001, dtype=np.float32)


class Perturbed(Runner):
    """A runner whose outputs are deliberately off."""

    def __init__(self, inner: Runner, change: Callable[[Arrays], Arrays]) -> None:
        super().__init__(f"perturbed {inner.name}", inner.spec)
        self._inner = inner
        self._change = change

    def _compute(self, feeds: Arrays) -> Arrays:
        return self._change(self._inner.run(feeds))

    def _release(self) -> None:
        self._inner.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    return small_bundle(folder, parts("sentinel-2", golden_pixels=tiles(6), calibration={"odeed": NORMAL}))


class Gate:
    """The gate on the small bundle."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.golden = bundle.golden("sentinel-2")
        self.settings = bundle.family("sentinel-2").odeed
        self.encoder = TorchRunner(bundle.encoder_model("sentinel-2"), threads=1)
        self.denoiser = TorchRunner(bundle.denoiser_model("sentinel-2"), threads=1)
        self.normal = np.quantile(self.golden["odeed_score"], np.linspace(0, 1, 2001)).astype(np.float32)

    def __call__(self, *, require: bool = False, **changes: Any) -> ParityReport:
        given = {"golden": self.golden, "calibration": {"odeed": self.normal}} | changes
        return (require_parity if require else measure)(
            given["golden"],
            self.settings,
            given["calibration"],
            given.get("encoder", self.encoder),
            given.get("denoiser", self.denoiser),
        )


@pytest.fixture(scope="module")
def gate(bundle: ModelBundle) -> Gate:
    return Gate(bundle)


def failed(report: ParityReport) -> set[tuple[str, str]]:
    return {(check.tensor, check.measure) for check in report.failed}


def test_the_reference_passes_its_own_gate(gate: Gate) -> None:
    report = gate(require=True)
    assert len(report.checks) == 5
    assert not report.failed


def test_onnxruntime_goes_through_the_same_gate(gate: Gate, bundle: ModelBundle) -> None:
    chosen, options = Candidate(runner="onnxruntime", device="cpu"), RunnerOptions(threads=1)
    with (
        open_candidate(bundle.encoder_model("sentinel-2"), chosen, options) as encoder,
        open_candidate(bundle.denoiser_model("sentinel-2"), chosen, options) as denoiser,
    ):
        assert not gate(encoder=encoder, denoiser=denoiser).failed


def turned(cosine: float) -> Callable[[Arrays], Arrays]:
    """Embeddings turned by a known angle."""

    def change(outputs: Arrays) -> Arrays:
        cls = outputs["cls"] / np.linalg.norm(outputs["cls"], axis=1, keepdims=True)
        across = np.random.default_rng(0).standard_normal(cls.shape)
        across -= (across * cls).sum(axis=1, keepdims=True) * cls
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        return outputs | {"cls": (cosine * cls + (1 - cosine**2) ** 0.5 * across).astype(np.float32)}

    return change


@pytest.mark.parametrize(("cosine", "passes"), [(0.9992, True), (0.9985, False)])
def test_embeddings_may_turn_by_so_much(gate: Gate, cosine: float, passes: bool) -> None:
    report = gate(encoder=Perturbed(gate.encoder, turned(cosine)))
    assert report.checks[0].value == pytest.approx(cosine, abs=1e-5)
    assert failed(report) == (set() if passes else {("cls", "smallest cosine")})


def test_a_drift_is_refused_with_its_tensor_and_amount(gate: Gate) -> None:
    worse = Perturbed(gate.denoiser, lambda out: {"denoised": out["denoised"] * np.float32(1.2)})
    with pytest.raises(RunnerUnavailable) as refused:
        gate(require=True, denoiser=worse)
    told = str(refused.value)
    assert "perturbed torch/cpu" in told
    assert "'denoised': largest relative RMS difference 0.2, the limit is 0.01" in told
    assert "'odeed_score'" in told
    assert "'cls'" not in told
    assert "runner: torch" in told


def test_what_is_no_number_never_passes(gate: Gate) -> None:
    spoilt = Perturbed(gate.denoiser, lambda out: {"denoised": np.full_like(out["denoised"], np.nan)})
    tensors = {tensor for tensor, _ in failed(gate(denoiser=spoilt))}
    assert tensors == {"denoised", "odeed_score"}


def with_scores(gate: Gate, scores: np.ndarray) -> Mapping[str, np.ndarray]:
    return gate.golden | {"odeed_score": scores.astype(np.float32)}


def test_scores_may_shift_by_a_fiftieth_of_the_interquartile_range(gate: Gate) -> None:
    scores = gate.golden["odeed_score"].astype(np.float64)
    low, high = np.quantile(gate.normal, (0.25, 0.75))
    for share, passes in ((0.019, True), (0.021, False)):
        report = gate(golden=with_scores(gate, scores - share * (high - low)))
        shift = next(check for check in report.checks if "shift" in check.measure)
        assert shift.value == pytest.approx(share, rel=1e-2)
        assert shift.passed == passes


def test_a_changed_order_is_refused_though_each_shift_is_small(gate: Gate) -> None:
    scores = np.sort(gate.golden["odeed_score"].astype(np.float64))
    order = np.argsort(gate.golden["odeed_score"])
    swapped = gate.golden["odeed_score"].astype(np.float64)
    swapped[order[0]], swapped[order[1]] = scores[1], scores[0]
    wide = np.linspace(0, 1000 * scores[-1], 2001, dtype=np.float32)  # so wide that the shift is nothing
    assert failed(gate(golden=with_scores(gate, swapped), calibration={"odeed": wide})) == {
        ("odeed_score", "rank correlation")
    }


def test_a_changed_decision_is_refused_though_each_shift_is_small(gate: Gate) -> None:
    top = float(gate.golden["odeed_score"].max())
    # 1,000 normal tiles, the hundredth from the top just above the strangest golden tile, and a wide range below.
    normal = np.concatenate([np.linspace(0, top / 2, 990), np.full(10, top * (1 + 1e-4))]).astype(np.float32)
    assert not gate(calibration={"odeed": normal}).failed
    nudged = gate.golden["odeed_score"].astype(np.float64)
    nudged[nudged.argmax()] *= 1 + 1e-3
    assert failed(gate(golden=with_scores(gate, nudged), calibration={"odeed": normal})) == {
        ("odeed_score", "decisions changed at the working thresholds")
    }


def test_without_normal_scores_the_recorded_ones_are_the_measure(gate: Gate) -> None:
    assert not gate(calibration={}).failed
    report = gate(golden=with_scores(gate, gate.golden["odeed_score"] * 1.1), calibration={})
    assert ("odeed_score", "largest shift over the interquartile range") in failed(report)


def test_ranks_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a = rng.integers(0, 6, 9).astype(np.float64)
        b = rng.integers(0, 6, 9).astype(np.float64)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(np.ones(3), np.ones(3)) == 1.0
    assert rank_correlation(np.ones(3), np.arange(3.0)) == 0.0


def test_ways_to_try_are_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*given: Any) -> list[str]:
        return [str(each) for each in candidates(*given)]

    installed = {"onnxruntime", "tensorrt_bindings"}
    monkeypatch.setattr("engine.runners.find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr("engine.runners._cuda_here", lambda: True)
    halves = ["tensorrt on cuda in fp16", "tensorrt on cuda in bf16"]
    assert told() == [*halves, "tensorrt on cuda", "torch on cuda"]
    assert told("auto", "auto", "bf16") == ["tensorrt on cuda in bf16", "torch on cuda"]
    assert told("tensorrt") == [*halves, "tensorrt on cuda"]
    assert told("tensorrt", "cuda", "fp32") == ["tensorrt on cuda"]
    assert told("auto", "cpu") == ["onnxruntime on cpu", "torch on cpu"]
    assert told("torch") == ["torch on cuda"]
    assert told("onnxruntime") == ["onnxruntime on cpu"]
    installed.clear()
    assert told() == ["torch on cuda"]
    monkeypatch.setattr("engine.runners._cuda_here", lambda: False)
    assert told() == ["torch on cpu"]
    for wrong in (("tensorrt", "cpu"), ("torch", "cpu", "fp16"), ("tpu",), ("auto", "mps")):
        with pytest.raises(RunnerUnavailable):
            candidates(*wrong)  # type: ignore[arg-type]


def test_auto_falls_back_and_says_so(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first way cannot be opened, the second drifts, the third serves."""
    ways = (
        Candidate(runner="tensorrt", device="cuda", precision="fp16"),
        Candidate(runner="onnxruntime", device="cpu"),
        Candidate(runner="torch", device="cpu"),
    )
    closed: list[str] = []

    class Drifting(Perturbed):
        def _release(self) -> None:
            closed.append(self.name)
            super()._release()

    def opened(model: RunnableModel, chosen: Candidate, options: RunnerOptions) -> Runner:
        if chosen.runner == "onnxruntime":
            return Drifting(TorchRunner(model), lambda out: {name: value * 2 for name, value in out.items()})
        return open_candidate(model, chosen, options)

    monkeypatch.setattr("engine.scoring.candidates", lambda *given: ways)
    monkeypatch.setattr("engine.scoring.open_candidate", opened)
    monkeypatch.setattr("engine.runners.cuda.torch.cuda.is_available", lambda: False)
    passed: list[tuple[str, str]] = []
    served: list[str] = []
    events = ScorerEvents(
        on_open=lambda family, chosen: served.append(f"{family}: {chosen}"),
        on_fallback=lambda family, chosen, why: passed.append((chosen.runner, why)),
    )
    with SceneScorer(bundle, RunnerChoice(), events=events) as scorer:
        scorer.open("sentinel-2")
    assert passed == [("tensorrt", "unavailable"), ("onnxruntime", "parity")]
    assert served == ["sentinel-2: torch on cpu"]
    assert len(closed) == 2
    assert "drifted from the bundle's golden batch" in caplog.text


def test_a_runner_that_was_asked_for_by_name_has_no_substitute(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runners.cuda.torch.cuda.is_available", lambda: False)
    with SceneScorer(bundle, RunnerChoice(runner="tensorrt")) as scorer, pytest.raises(RunnerUnavailable):
        scorer.open("sentinel-2")
