"""The only code that touches Ray, clock and processes."""
