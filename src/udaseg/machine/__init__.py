"""The machine a job runs on: devices, CPU instruction sets, signals, and what PyTorch refuses there."""
