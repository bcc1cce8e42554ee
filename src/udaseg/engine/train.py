"""The one training loop. A method yields named loss terms; everything else of a step is done here."""

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from udaseg.data.prepared import PreparedSet
from udaseg.data.streams import Batch, Streams, batches
from udaseg.engine.checkpoint import load_resume, load_tensors, save_resume, save_tensors
from udaseg.engine.evaluate import predictions
from udaseg.engine.metrics import confusion_matrix, scores
from udaseg.engine.optimisers import Optimisers, rate_factor, scale_rates
from udaseg.engine.predict import PLAIN
from udaseg.errors import UserError
from udaseg.methods.base import Context, Method, MethodSpec, Step
from udaseg.nets.weights import file_weights, imagenet_weights
from udaseg.runs import append_line, read_json, read_lines, sha256, write_json, write_text
from udaseg.seeding import seed_for
from udaseg.specs import TrainSpec


class Training:
    """One run: a method, its streams and optimisers, and the loop over iterations.

    Args:
        spec: the resolved configuration of the run.
        method: the method's class.
        state: folder of the run's checkpoints and of its growing result; what lies there is gone on from.
        device: where to train.
    """

    def __init__(self, spec: TrainSpec, method: type[Method], state: Path, device: torch.device) -> None:
        torch.set_num_threads(spec.train.threads)
        self.spec, self.state, self.device = spec, state, device
        self.weights = method.SPEC.active(spec.weights)
        self.context = _context(spec, method.SPEC, self.weights)
        self.method = method(self.context).to(device)
        self.optimizers = self.method.optimizers(Optimisers(spec.optim))
        self.sets = _open_sets(spec)
        streams = method.SPEC.streams(spec.weights)
        views = {"source": spec.train.source, "target": spec.train.target}
        self.streams = Streams({name: self.sets[name] for name in streams}, views, spec.seed)
        self.best: dict[str, Any] = {}
        self.window: dict[str, dict[str, list[float]]] = {"terms": {}, "logs": {}}

    def run(self) -> None:
        """Train to the last iteration, from the newest sound checkpoint; afterwards `state/build` is the result."""
        build, history = self.state / "build", self.state / "build" / "history.jsonl"
        build.mkdir(parents=True, exist_ok=True)
        first, extra = load_resume(self.state, self.method, self.optimizers)
        self.best = extra.get("best", {})
        # Lines from after the checkpoint will be written again.
        lines = read_lines(history)[: extra["lines"]] if first else []
        write_text(history, "")
        for line in lines:
            append_line(history, line)
        cost = _Cost(self.state / "cost.json", first)
        print(
            f"{self.spec.folder}: iterations {first} to {self.spec.train.iterations} on {self.device}", file=sys.stderr
        )
        self.method.train()
        train, accumulate = self.spec.train, self.spec.train.accumulate
        source = batches(self.streams, first * accumulate, train.iterations * accumulate, train.workers)
        bar = tqdm(
            range(first, train.iterations), initial=first, total=train.iterations, disable=not sys.stderr.isatty()
        )
        for index in bar:
            self.step(index, [next(source).to(self.device) for _ in range(accumulate)])
            done = index + 1
            if done % train.log_every == 0 or done == train.iterations:
                self._log(done, history)
            if self.spec.monitor and (done % train.monitor_every == 0 or done == train.iterations):
                self._monitor(done, history)
            if done % train.checkpoint_every == 0 and done < train.iterations:
                count = len(read_lines(history))
                save_resume(self.state, done, self.method, self.optimizers, {"best": self.best, "lines": count})
                cost.note(done)
        save_tensors(build / "model.safetensors", self.method.predictor().state_dict())
        save_tensors(build / "state.safetensors", self.method.state_dict())
        last = {"iteration": train.iterations, "monitor": self.best.get("last")}
        result = {
            "last": last,
            "matched": self.context.matched,
            "data": {n: s.fingerprint for n, s in self.sets.items()},
        }
        if self.best:
            result["best"] = {"iteration": self.best["iteration"], "monitor": self.best["score"]}
        write_json(build / "result.json", result)
        cost.note(train.iterations)
        write_json(build / "cost.json", cost.summary(self.device))

    def step(self, index: int, micro_batches: list[Batch]) -> dict[str, float]:
        """One optimisation step; returns the unweighted terms, the mean over the micro-batches.

        Raises:
            UserError: a term is not finite or was not declared; names it and the iteration. Checkpoints stay as they are.
        """
        train = self.spec.train
        # torchvision's transforms and dropout draw from the global generator.
        torch.manual_seed(seed_for(self.spec.seed, "step.global", index))
        generator = torch.Generator().manual_seed(seed_for(self.spec.seed, "step.generator", index))
        step = Step(index, train.iterations, self.weights, generator)
        factor = rate_factor(self.spec.optim, index, train.iterations)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
            scale_rates(optimizer, factor)
        found: dict[str, float] = {}
        for batch in micro_batches:
            carry = self._backward(batch, step, found)
        for optimizer in self.optimizers.values():
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            if parameters:
                if self.spec.optim.clip_gradient:
                    torch.nn.utils.clip_grad_norm_(parameters, self.spec.optim.clip_gradient)
                optimizer.step()
        self.method.after_step(carry, step)
        for name, value in found.items():
            self.window["terms"].setdefault(name, []).append(value)
        for name, logged in step.logs.items():
            self.window["logs"].setdefault(name, []).append(float(logged))
        return found

    def _backward(self, batch: Batch, step: Step, found: dict[str, float]) -> Any:
        """Run the method's generator: one backward for each group of terms it yields. Returns what it returns."""
        share = 1 / self.spec.train.accumulate
        losses = self.method.losses(batch, step)
        while True:
            try:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.train.precision == "bf16"):
                    terms = next(losses)
            except StopIteration as stop:
                return stop.value
            undeclared = set(terms) - set(self.weights)
            if undeclared:
                raise UserError(
                    f"{self.spec.method}: yields {sorted(undeclared)}, active are only {sorted(self.weights)}"
                )
            total: Tensor | float = 0.0
            for name, value in terms.items():
                number = float(value.detach())
                if not math.isfinite(number):
                    raise UserError(
                        f"iteration {step.index}: the loss term '{name}' of {self.spec.method} is {number}. The last "
                        f"checkpoint in {self.state} is kept; lower optim.lr or the term's weight, or look at its inputs"
                    )
                found[name] = found.get(name, 0.0) + share * number
                total = total + value * (self.weights[name] * share)
            if isinstance(total, Tensor) and total.requires_grad:
                total.backward()
            del terms, total

    def _log(self, done: int, history: Path) -> None:
        """Append the window's means to the history and start a new window."""
        means = {
            kind: {name: sum(values) / len(values) for name, values in sorted(entries.items())}
            for kind, entries in self.window.items()
        }
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}
        append_line(history, {"iteration": done, **means, "lr": rates})
        words = " ".join(f"{name} {value:.4f}" for entries in means.values() for name, value in entries.items())
        if not sys.stderr.isatty():
            print(f"{done}/{self.spec.train.iterations} {words}", file=sys.stderr, flush=True)
        self.window = {"terms": {}, "logs": {}}

    def _monitor(self, done: int, history: Path) -> None:
        """Score the monitored split, note it, and keep the best weights. Nothing in training depends on it."""
        assert self.spec.monitor
        classes = self.spec.classes
        total = sum(
            confusion_matrix(found, label, len(classes))
            for _, found, label in predictions(
                self.method.predictor(), self.sets["target"], self.spec.monitor, PLAIN, self.device
            )
        )
        headline = f"mIoU{len(classes)}"
        scored = scores(total, classes, {headline: classes})  # type: ignore[arg-type]
        score = scored["sets"][headline]
        line = {"split": self.spec.monitor, headline: score, "iou": scored["iou"]}
        append_line(history, {"iteration": done, "monitor": line})
        if not self.best or score > self.best["score"]:
            self.best = {"iteration": done, "score": score}
            save_tensors(self.state / "build" / "best.safetensors", self.method.predictor().state_dict())
        self.best["last"] = score


class _Cost:
    """Seconds, memory and attempts of a run, over its interruptions. Apart from all that is compared."""

    def __init__(self, path: Path, first: int) -> None:
        before = read_json(path) if path.is_file() else {"seconds": 0.0, "attempts": 0}
        self.path, self.started = path, time.monotonic()
        self.seconds, self.attempts = before["seconds"] if first else 0.0, before["attempts"] + 1
        self.iterations = first
        write_json(path, {"seconds": self.seconds, "attempts": self.attempts})

    def note(self, done: int) -> None:
        self.iterations = done
        write_json(self.path, {"seconds": self._total(), "attempts": self.attempts})

    def _total(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def summary(self, device: torch.device) -> dict[str, Any]:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "seconds": round(self._total(), 2),
            "iterations": self.iterations,
            "seconds_per_iteration": round(self._total() / self.iterations, 5),
            "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak,
            "attempts": self.attempts,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def _context(spec: TrainSpec, method: MethodSpec, weights: Mapping[str, float]) -> Context:
    initial: dict[str, tuple[str, Mapping[str, Tensor]]] = {}
    for role, start in spec.init.items():
        if start == "imagenet":
            initial[role] = ("torchvision's ImageNet weights", imagenet_weights(spec.network))
        elif start.startswith("file:"):
            path = Path(start.removeprefix("file:")).expanduser()
            tensors = file_weights(path)
            if sha256(path) != spec.init_sums[role]:
                raise UserError(
                    f"{path}: changed since the plan was made (checksum differs); run the same command again"
                )
            initial[role] = (str(path), tensors)
        elif start != "scratch":
            initial[role] = (start, load_tensors(Path(start) / "model.safetensors"))
    return Context(
        knobs=method.Config.model_validate(spec.knobs),
        weights=weights,
        classes=spec.classes,
        network=spec.network,
        seed=spec.seed,
        initial=initial,
    )


def _open_sets(spec: TrainSpec) -> dict[str, PreparedSet]:
    sets = {"source": PreparedSet(Path(spec.source))}
    if spec.target is not None:
        sets["target"] = PreparedSet(Path(spec.target))
    for prepared in sets.values():
        if list(prepared.classes) != spec.classes:
            raise UserError(f"{prepared.folder}: has the classes {prepared.classes}, the run's spec {spec.classes}")
    if not sets["source"].labelled("train"):
        raise UserError(f"{sets['source'].folder}: the split train has no labels, which {spec.method} learns from")
    return sets


def enable_determinism() -> None:
    """Refuse operators without a deterministic form. Call before CUDA starts, where it needs an environment variable."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
