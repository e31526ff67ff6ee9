"""A certification on disk, finished or not: written, read, and shown."""
