"""What is kept of finished studies: records for git, and the snapshot that DVC versions."""
