"""What train.py does, from its arguments to its last line."""
