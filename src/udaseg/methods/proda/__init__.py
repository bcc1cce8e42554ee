"""ProDA: denoised pseudo-labels (`proda`), then distillation into fresh students (`distill`)."""
