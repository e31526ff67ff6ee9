"""What the project measures and no test does: speed, and what each improvement buys."""
