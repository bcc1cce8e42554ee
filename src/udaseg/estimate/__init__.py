"""What a study will take: the finished jobs that tell it, the estimate, and its table."""
