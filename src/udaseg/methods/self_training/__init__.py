"""Self-training with a moving teacher: a host (`host`) and what is built on it or plugged into it."""
