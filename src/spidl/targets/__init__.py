"""What a linked image becomes: a file that the kernel runs, or memory of this process."""
