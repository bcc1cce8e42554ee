"""Self-training with a moving teacher: DACS, which is the host (`dacs`), and what is built on it or plugged into it."""
