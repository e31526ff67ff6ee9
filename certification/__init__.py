"""What certify.py does, from its arguments to its last line."""
