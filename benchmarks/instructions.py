"""What `train.instructions: portable` costs: seconds of training steps under each setting, in one run.

python benchmarks/instructions.py
"""

import subprocess
import sys
import time

from udaseg.config.training import Exactness
from udaseg.machine.cpu import limit_instructions

SETTINGS = ("native", "portable")
ROUNDS, STEPS = 5, 10
BATCH, SIZE, CLASSES, ROWS = 12, 96, 11, 2304


def main() -> None:
    """Print a table of the least seconds a step, of processes that take turns."""
    found: dict[str, list[list[float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(ROUNDS):
        for setting in SETTINGS:
            done = subprocess.run([sys.executable, __file__, setting], check=True, capture_output=True, text=True)
            found[setting].append([float(word) for word in done.stdout.split()])
    native, portable = ([min(column) for column in zip(*found[setting], strict=True)] for setting in SETTINGS)
    print("| what | native, s | portable, s | ratio |\n|---|---:|---:|---:|")
    for name, first, second in zip(("small network, a step", "matrix products alone"), native, portable, strict=True):
        print(f"| {name} | {first:.3f} | {second:.3f} | {second / first:.2f} |")


def measure(setting: str) -> None:
    """Print the processor's seconds of a training step, and of the product of a step's rows with each other."""
    exactness = Exactness.model_validate({"threads": 1, "determinism": "strict", "instructions": setting})
    limit_instructions(exactness)

    import torch

    from udaseg.config.training import Network
    from udaseg.machine.environment import make_exact
    from udaseg.nets.build import build_network
    from udaseg.ops.losses import cross_entropy
    from udaseg.ops.maps import resize

    make_exact(exactness)
    network = Network(name="small", depth=50, head="aspp", aspp="paper", feature_norm=False, norm="train")
    net = build_network(network, CLASSES, levels=1, seed=0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(CLASSES, (BATCH, SIZE, SIZE), generator=generator)
    rows = torch.randn(ROWS, 256, generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(resize(net(images).logits, labels.shape[1:]), labels).backward()
        optimizer.step()

    for work in (step, lambda: rows @ rows.T):
        work()  # what libraries do once
        start = time.process_time()
        for _ in range(STEPS):
            work()
        print((time.process_time() - start) / STEPS)


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
