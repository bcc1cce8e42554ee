"""DiGA: a translator's images (`translation`), the warm-up on source images (`warmup`), and self-training (`diga`)."""
