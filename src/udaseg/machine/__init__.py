"""The machine a job runs on: GPUs, CPU instruction sets, signals, and the errors of PyTorch there."""
