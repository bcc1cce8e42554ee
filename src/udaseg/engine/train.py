"""The training loop of all methods: initial weights, history, checkpoints and the result of a run."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from udaseg.data.batches.loader import batches
from udaseg.data.batches.streams import Streams
from udaseg.data.sets.pseudo_labels import PseudoLabels
from udaseg.data.sets.read import PreparedSet
from udaseg.engine.checkpoint import load_resume, load_tensors, save_resume, save_tensors
from udaseg.engine.cost import Cost
from udaseg.engine.metrics import confusion_matrix, scores
from udaseg.engine.predict import PLAIN, predictions
from udaseg.engine.sets import fingerprints, open_labels, open_sets, require_finished, require_same
from udaseg.engine.step import Stepper
from udaseg.errors import Interrupted, UserError
from udaseg.machine.environment import make_exact
from udaseg.machine.out_of_memory import explain_out_of_memory
from udaseg.machine.signals import Interrupts
from udaseg.methods.base import Context, Method
from udaseg.nets import NETWORKS
from udaseg.nets.weights import file_weights
from udaseg.runs.files import append_line, sha256, write_json, write_text
from udaseg.runs.spec import TrainSpec


class Training:
    """One run: a method, its streams and optimizers, and the loop over iterations.

    Args:
        spec: the resolved configuration of the run.
        method: the method's class.
        state: folder of the run's checkpoints and of its unfinished result; training resumes from what is there.
        device: where to train.

    Raises:
        UserError: a loss weight, a prepared set or the initial weights do not fit the run.
    """

    def __init__(self, spec: TrainSpec, method: type[Method], state: Path, device: torch.device) -> None:
        make_exact(spec.train)
        method.SPEC.check(spec.weights, "weights")
        self.spec, self.state, self.device = spec, state, device
        self.history = state / "build" / "history.jsonl"
        self.sets = open_sets(spec)
        self.labels = open_labels(spec, self.sets["target"]) if spec.labels else None
        knobs, weights = method.SPEC.Config.model_validate(spec.knobs), method.SPEC.active(spec.weights)
        self.context = Context(
            knobs=knobs,
            weights=weights,
            classes=spec.classes,
            network=spec.network,
            seed=spec.seed,
            initial=_initial_weights(spec, self.sets.values()),
            artifacts=_artifacts(method.SPEC.consumes(knobs, weights), self.labels),
        )
        # Convolutions are a fifth faster with channels last, on CPUs and on tensor cores.
        with explain_out_of_memory(
            f"on {device}, taking in the networks of {spec.method}", "Free memory, or use a smaller network"
        ):
            self.method = method(self.context).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = Stepper(spec, self.method, device)
        wanted = method.SPEC.streams(knobs, weights)
        total = spec.train.iterations * spec.train.accumulate
        self.streams = Streams(self.sets, spec.train.source, spec.train.target, spec.seed, wanted, self.labels, total)
        self.scored: dict[str, dict[str, Any]] = {}  # "last" and "best": iteration and score of the monitored split
        self.window: dict[str, dict[str, list[float]]] = {"terms": {}, "logs": {}}

    def run(self) -> None:
        """Train from the newest undamaged checkpoint to the last iteration; then `state/build` is the result.

        Raises:
            Interrupted: SIGTERM or SIGUSR1 arrived; the current iteration is finished and a checkpoint written.
            UserError: a number is not finite, memory or disk space ran out, or a data file or loader process is gone.
                The last checkpoint is kept.
        """
        train = self.spec.train
        first, total = self._resume(), train.iterations
        cost = Cost(self.state / "cost.json", first)
        print(f"{self.spec.folder}: iterations {first} to {total} on {self.device}", file=sys.stderr)
        for role, share in self.context.matched.items():
            print(f"{role}: {share:.1%} of the backbone found in {self.spec.init[role]}", file=sys.stderr)
        self.method.train()
        part = (first * train.accumulate, total * train.accumulate)
        with Interrupts() as interrupts, batches(self.streams, *part, train.workers) as source:
            for index in tqdm(range(first, total), initial=first, total=total, disable=not sys.stderr.isatty()):
                terms, logs = self.step(index, [next(source) for _ in range(train.accumulate)])
                self._collect(terms, logs)
                done = index + 1
                if done % train.log_every == 0 or done == total:
                    self._log(done)
                if self.spec.monitor and (done % train.monitor_every == 0 or done == total):
                    self._monitor(done)
                if done < total and (done % train.checkpoint_every == 0 or interrupts.received):
                    self._checkpoint(done)
                    cost.note()
                    self._stop_if(interrupts.received, done)
        self._finish()
        write_json(self.state / "build" / "cost.json", cost.summary(total, self.device))

    def _resume(self) -> int:
        """Load the newest undamaged checkpoint and the history up to it; return the number of finished iterations."""
        first, extra = load_resume(self.state, self.method, self.step.optimizers)
        if first:
            require_same(self.state, self.sets.values(), extra["data"])
            self.scored, self.window = extra["scored"], extra["window"]
        write_text(self.history, extra["history"] if first else "")
        return first

    def _checkpoint(self, done: int) -> None:
        extra = {
            "scored": self.scored,
            "window": self.window,  # not empty if a signal arrived between two lines of the history
            "history": self.history.read_text(),  # its file is not flushed to disk, so a crash may truncate it
            "data": fingerprints(self.sets.values()),
        }
        self._require_finite(done)
        save_resume(self.state, done, self.method, self.step.optimizers, extra)

    def _stop_if(self, signal: str | None, done: int) -> None:
        if signal:
            raise Interrupted(
                f"{self.spec.folder}: stopped by {signal} after {done} of {self.spec.train.iterations} iterations. "
                "Run the same command again to resume"
            )

    def _require_finite(self, done: int) -> None:
        """A finite loss can have an infinite gradient; the resulting weights must not replace a good checkpoint."""
        for name, tensor in self.method.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise UserError(
                    f"iteration {done}: '{name}' of {self.spec.method} is not finite any more; the last checkpoint "
                    "is kept. Lower optim.lr, or set optim.clip_gradient"
                )

    def _collect(self, terms: Mapping[str, float], logs: Mapping[str, float]) -> None:
        for kind, found in (("terms", terms), ("logs", logs)):
            for name, value in found.items():
                self.window[kind].setdefault(name, []).append(value)

    def _log(self, done: int) -> None:
        """Append the window's means to the history and start a new window."""
        means = {
            kind: {name: sum(values) / len(values) for name, values in sorted(entries.items())}
            for kind, entries in self.window.items()
        }
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.step.optimizers.items()}
        append_line(self.history, {"iteration": done, **means, "lr": rates})
        words = " ".join(f"{name} {value:.4f}" for entries in means.values() for name, value in entries.items())
        if not sys.stderr.isatty():
            print(f"{done}/{self.spec.train.iterations} {words}", file=sys.stderr, flush=True)
        self.window = {"terms": {}, "logs": {}}

    def _monitor(self, done: int) -> None:
        """Score the monitored split, log the score and keep the best weights. Training does not depend on it."""
        assert self.spec.monitor
        classes, net = self.spec.classes, self.method.predictor()
        total = sum(
            confusion_matrix(found, label, len(classes))
            for _, found, label in predictions(net, self.sets["target"], self.spec.monitor, PLAIN, self.device)
        )
        headline = f"mIoU{len(classes)}"
        scored = scores(total, classes, {headline: classes})  # type: ignore[arg-type]
        score = scored["sets"][headline]
        line = {"split": self.spec.monitor, headline: score, "iou": scored["iou"]}
        append_line(self.history, {"iteration": done, "monitor": line})
        self.scored["last"] = {"iteration": done, "monitor": score}
        # Without any labelled pixel there is no score, and no best.
        if score is not None and ("best" not in self.scored or score > self.scored["best"]["monitor"]):
            self.scored["best"] = self.scored["last"]
            save_tensors(self.state / "build" / "best.safetensors", net.state_dict())

    def _finish(self) -> None:
        """Write the final weights and what later jobs need to know of the run."""
        build, total = self.state / "build", self.spec.train.iterations
        self._require_finite(total)
        save_tensors(build / "model.safetensors", self.method.predictor().state_dict())
        save_tensors(build / "state.safetensors", self.method.state_dict())
        evaluated = self.sets.get("target", self.sets["source"])
        result = {"last": {"iteration": total, "monitor": None}} | self.scored
        result["matched"] = self.context.matched
        result["data"] = {stream: prepared.fingerprint for stream, prepared in self.sets.items()}
        result["input"] = list(evaluated.size)  # height and width of the network's input
        write_json(build / "result.json", result)


def _artifacts(names: Iterable[str], labels: PseudoLabels | None) -> dict[str, Tensor]:
    """The tensors of these names from the label job."""
    found = labels.artifacts() if labels else {}
    if lacking := [name for name in names if name not in found]:
        raise UserError(f"the method needs {lacking} from a label job, which made {sorted(found) or 'none'}")
    return {name: found[name] for name in names}


def _initial_weights(spec: TrainSpec, sets: Iterable[PreparedSet]) -> dict[str, tuple[str, Mapping[str, Tensor]]]:
    """Role -> origin and tensors of its initial weights; no entry for a network that starts from scratch."""
    initial: dict[str, tuple[str, Mapping[str, Tensor]]] = {}
    for role, start in spec.init.items():
        if start == "imagenet":
            network = spec.network
            initial[role] = (f"published weights of {network.name}", NETWORKS[network.name].published_weights(network))
        elif start.startswith("file:"):
            path = Path(start.removeprefix("file:")).expanduser()
            tensors = file_weights(path)
            if sha256(path) != spec.init_sums[role]:
                raise UserError(
                    f"{path}: changed since the plan was made (checksum differs); run the same command again"
                )
            initial[role] = (str(path), tensors)
        elif start != "scratch":
            require_finished(Path(start), sets)
            initial[role] = (start, load_tensors(Path(start) / "model.safetensors"))
    return initial
