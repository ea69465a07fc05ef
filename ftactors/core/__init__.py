"""What is decided, without a clock, a disk, Ray or torch."""
